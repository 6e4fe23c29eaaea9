//! Increments: what exchanges that are in flight moved in each slice of time.
//!
//! Owns the clock of the slices, which is the packets', and the increments' columns: those of exchanges, with its
//! number, the slice, and whether the exchange has ended with it. An exchange that begins and ends within one slice has none:
//! its row says all. The sum of an exchange's increments is its row.

use crate::exchange::columns::{Addresses, Columns};
use crate::exchange::{Counted, Ends, Exchange};
use crate::options::Options;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, TimestampNanosecondArray};
use arrow_schema::{ArrowError, Field, Schema};
use std::sync::Arc;

/// A packet that is so many slices older than the last one makes the clock go back.
const BACK: i64 = 10;

/// The slice that is running.
#[derive(Debug, Default)]
pub struct Clock {
    /// ns; 0: no slices are cut.
    length: i64,
    start: Option<i64>,
}

impl Clock {
    pub fn new(length: i64) -> Self {
        Clock {
            length,
            start: None,
        }
    }

    pub fn start(&self) -> i64 {
        self.start.unwrap_or(0)
    }

    /// Whether a slice has ended before this time.
    #[inline]
    pub fn ends_before(&self, time: i64) -> bool {
        if self.length == 0 {
            return false;
        }
        match self.start {
            None => true,
            Some(start) => {
                !(-BACK * self.length..self.length).contains(&time.saturating_sub(start))
            }
        }
    }

    /// Begins the slice that this time is in.
    pub fn begin(&mut self, time: i64) {
        self.start = Some(time - time.rem_euclid(self.length));
    }
}

/// The increments of a batch.
pub struct Increments {
    columns: Columns,
    slice: Vec<i64>,
    last: Vec<bool>,
}

impl Increments {
    pub fn new(options: &Options) -> Self {
        Increments {
            columns: Columns::new(options, true),
            slice: Vec::new(),
            last: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.slice.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }

    /// `before`: what was said of it until now. `last`: it has ended.
    pub fn push(
        &mut self,
        x: &Exchange,
        before: &Counted,
        ends: &Ends,
        options: &Options,
        slice: i64,
        last: bool,
    ) {
        let mut addresses = Addresses::default();
        self.columns.push(x, before, ends, &mut addresses, options);
        self.slice.push(slice);
        self.last.push(last);
    }

    /// Takes them as one record batch: the exchanges' columns, `exchange`, `slice` (its start) and `last`.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let exchanges = self.columns.take()?;
        let mut fields: Vec<Arc<Field>> = exchanges.schema().fields().iter().cloned().collect();
        let mut arrays: Vec<ArrayRef> = exchanges.columns().to_vec();
        let slice = std::mem::take(&mut self.slice);
        let more: [(&str, ArrayRef); 2] = [
            (
                "slice",
                Arc::new(TimestampNanosecondArray::from(slice).with_timezone("UTC")),
            ),
            (
                "last",
                Arc::new(BooleanArray::from(std::mem::take(&mut self.last))),
            ),
        ];
        for (name, array) in more {
            fields.push(Arc::new(Field::new(name, array.data_type().clone(), false)));
            arrays.push(array);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_the_packets_and_survive_a_time_from_nowhere() {
        let mut clock = Clock::new(1000);
        assert!(clock.ends_before(5));
        clock.begin(5_300);
        assert_eq!(clock.start(), 5_000);
        assert!(!clock.ends_before(5_999) && !clock.ends_before(4_000));
        assert!(clock.ends_before(6_000));
        clock.begin(i64::MAX);
        assert!(clock.ends_before(6_000));
        clock.begin(-1);
        assert_eq!(clock.start(), -1000);
        assert!(!Clock::default().ends_before(i64::MAX));
    }
}
