//! How values are distributed: counts in logarithmic buckets, 32 an octave, which is an error below 1.1 %.

const PER_OCTAVE: f64 = 32.0;
/// The bucket of zero and less.
pub const ZERO: i16 = -1;

/// The bucket of a value.
#[inline]
pub fn bucket(value: i64) -> i16 {
    if value < 1 {
        return ZERO;
    }
    ((value as f64).log2() * PER_OCTAVE).floor() as i16
}

/// Buckets that hold something, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets(Vec<(i16, f64)>);

impl Buckets {
    #[inline]
    pub fn add(&mut self, bucket: i16, count: f64) {
        match self.0.binary_search_by_key(&bucket, |entry| entry.0) {
            Ok(at) => self.0[at].1 += count,
            Err(at) => self.0.insert(at, (bucket, count)),
        }
    }

    pub fn add_all(&mut self, other: &Buckets) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        for &(bucket, count) in &other.0 {
            self.add(bucket, count);
        }
    }

    pub fn entries(&self) -> &[(i16, f64)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_narrow() {
        assert_eq!(
            (bucket(i64::MIN), bucket(0), bucket(1), bucket(2)),
            (ZERO, ZERO, 0, 32)
        );
        for value in [3, 1000, 123_456_789, i64::MAX] {
            let middle = 2f64.powf((f64::from(bucket(value)) + 0.5) / PER_OCTAVE);
            assert!((middle / value as f64 - 1.0).abs() < 0.011, "{value}");
        }
    }

    #[test]
    fn counts_add_up() {
        let (mut one, mut other) = (Buckets::default(), Buckets::default());
        for value in [5, 1, 5, 70] {
            one.add(bucket(value), 2.0);
            other.add(bucket(value * 2), 1.0);
        }
        one.add_all(&other);
        assert_eq!(one.entries().iter().map(|e| e.1).sum::<f64>(), 12.0);
        assert!(one.entries().is_sorted_by_key(|e| e.0));
    }
}
