//! Exchanges added up by keys, in bounded memory.
//!
//! Owns sums, counts and distributions per key. Beyond `max_keys` sibling endpoints are joined and the smallest keys are
//! added to `(other)`, so that totals always add up. Sums are weighted: with sampling they estimate the whole.

use crate::buckets::{bucket, Buckets};
use crate::folding::Folding;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType};
use hashbrown::{HashMap, HashTable};

pub const OTHER: &str = "(other)";
const UNKNOWN: &str = "(unknown)";
/// Columns that are added up, in the order of [`Group::sums`].
pub const SUMS: [&str; 8] = [
    "request_header_bytes",
    "request_body_bytes",
    "response_header_bytes",
    "response_body_bytes",
    "request_wire_bytes",
    "response_wire_bytes",
    "link_bytes",
    "retransmitted_bytes",
];
const WIRE: [usize; 2] = [4, 5];
/// A key that no group has.
const UNSET: u32 = u32::MAX;

/// What is added up and shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Wire,
    Link,
    Body,
}

/// One key's totals; sizes in bytes.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub requests: f64,
    pub incomplete: f64,
    pub sums: [f64; SUMS.len()],
    /// The largest request and response, unweighted.
    pub largest: [i64; 2],
    pub sizes: Buckets,
    pub latencies: Buckets,
}

impl Group {
    pub fn bytes(&self, measure: Measure) -> f64 {
        match measure {
            Measure::Wire => self.sums[4] + self.sums[5],
            Measure::Link => self.sums[6],
            Measure::Body => self.sums[1] + self.sums[3],
        }
    }

    pub fn add(&mut self, other: &Group) {
        self.requests += other.requests;
        self.incomplete += other.incomplete;
        for (mine, theirs) in self.sums.iter_mut().zip(other.sums) {
            *mine += theirs;
        }
        for (mine, theirs) in self.largest.iter_mut().zip(other.largest) {
            *mine = (*mine).max(theirs);
        }
        self.sizes.add_all(&other.sizes);
        self.latencies.add_all(&other.latencies);
    }

    pub fn is_empty(&self) -> bool {
        self.requests == 0.0 && self.sums[6] == 0.0
    }
}

pub type Key = Box<[Box<str>]>;

#[derive(Clone)]
pub struct Summary {
    /// How many columns are keys, and which of them is the endpoint's.
    keys: usize,
    endpoint: Option<usize>,
    max_keys: usize,
    measure: Measure,
    /// Without distributions.
    only_sums: bool,
    groups: Vec<(Key, Group)>,
    places: HashTable<u32>,
    hasher: ahash::RandomState,
    /// A weight other than 1 was seen.
    pub weighted: bool,
}

impl Summary {
    pub fn new(keys: usize, endpoint: Option<usize>, max_keys: usize, measure: Measure) -> Self {
        Summary {
            keys,
            endpoint,
            max_keys,
            measure,
            only_sums: false,
            groups: Vec::new(),
            places: HashTable::new(),
            hasher: ahash::RandomState::new(),
            weighted: false,
        }
    }

    /// An empty one of the same kind.
    pub fn alike(&self, only_sums: bool) -> Self {
        Summary {
            only_sums,
            ..Summary::new(self.keys, self.endpoint, self.max_keys, self.measure)
        }
    }

    /// Adds a batch: first the keys' columns (strings, or dictionaries of them), then by their names [`SUMS`] and
    /// `duration_ns` (int64), `weight` (double), `complete` and, where not every row ends an exchange, `ended`.
    pub fn add(&mut self, batch: &RecordBatch, folding: &mut Folding) -> Result<(), ArrowError> {
        let keys = Keys::of(batch, self.keys)?;
        let values = Values::of(batch)?;
        let mut slots = vec![UNSET; keys.count];
        for row in 0..batch.num_rows() {
            let key = keys.rows[row];
            let mut slot = slots[key as usize];
            if slot == UNSET {
                slot = self.slot(&keys.texts(key), folding);
                slots[key as usize] = slot;
            }
            let weight = values.weight.value(row);
            self.weighted |= weight != 1.0;
            let group = &mut self.groups[slot as usize].1;
            values.add_row(row, weight, self.only_sums, group);
        }
        if self.groups.len() > self.max_keys {
            self.shrink(folding);
        }
        Ok(())
    }

    /// The place of a key's group, which is made if it is new.
    fn slot(&mut self, key: &[&str], folding: &mut Folding) -> u32 {
        let hash = self.hasher.hash_one(key);
        let same = |&at: &u32| {
            self.groups[at as usize]
                .0
                .iter()
                .map(|t| &**t)
                .eq(key.iter().copied())
        };
        if let Some(&at) = self.places.find(hash, same) {
            return at;
        }
        if let Some(at) = self.endpoint {
            folding.learn(key[at]);
        }
        let key: Key = key.iter().map(|text| Box::from(*text)).collect();
        self.insert(hash, key, Group::default())
    }

    fn insert(&mut self, hash: u64, key: Key, group: Group) -> u32 {
        let at = self.groups.len() as u32;
        self.groups.push((key, group));
        let (groups, hasher) = (&self.groups, &self.hasher);
        self.places
            .insert_unique(hash, at, |&at| hashed(hasher, &groups[at as usize].0));
        at
    }

    /// Adds a group to the one of that key.
    fn put(&mut self, key: Key, group: Group) {
        let hash = hashed(&self.hasher, &key);
        match self
            .places
            .find(hash, |&at| self.groups[at as usize].0 == key)
        {
            Some(&at) => self.groups[at as usize].1.add(&group),
            None => {
                self.insert(hash, key, group);
            }
        }
    }

    fn other(&self) -> Key {
        vec![Box::from(OTHER); self.keys].into()
    }

    /// Joins siblings, then adds the smallest half to `(other)`.
    fn shrink(&mut self, folding: &Folding) {
        self.join(folding);
        if self.groups.len() <= self.max_keys {
            return;
        }
        let other = self.other();
        let mut groups = std::mem::take(&mut self.groups);
        self.places.clear();
        let measure = self.measure;
        // Kept are the largest, and `(other)` whatever its size.
        groups.sort_by(|(a, x), (b, y)| {
            (*b == other)
                .cmp(&(*a == other))
                .then(y.bytes(measure).total_cmp(&x.bytes(measure)))
                .then_with(|| a.cmp(b))
        });
        for (n, (key, group)) in groups.into_iter().enumerate() {
            let key = if n < self.max_keys / 2 {
                key
            } else {
                other.clone()
            };
            self.put(key, group);
        }
    }

    /// Gives endpoints their names of now.
    fn join(&mut self, folding: &Folding) {
        let Some(at) = self.endpoint else {
            return;
        };
        let groups = std::mem::take(&mut self.groups);
        self.places.clear();
        for (mut key, group) in groups {
            let name = folding.name(&key[at]);
            if *name != *key[at] {
                key[at] = name.into();
            }
            self.put(key, group);
        }
    }

    /// The keys with the most bytes by the measure, and the rest as `(other)`: the sum is always the total.
    pub fn top(&mut self, most: usize, folding: &Folding) -> Vec<(Key, Group)> {
        self.join(folding);
        let other = self.other();
        let mut ranked: Vec<&(Key, Group)> = self.groups.iter().collect();
        ranked.sort_by(|(a, x), (b, y)| {
            y.bytes(self.measure)
                .total_cmp(&x.bytes(self.measure))
                .then_with(|| a.cmp(b))
        });
        let mut rest = Group::default();
        let mut kept = Vec::new();
        for (key, group) in ranked {
            if *key == other || kept.len() >= most {
                rest.add(group);
            } else {
                kept.push((key.clone(), group.clone()));
            }
        }
        if !rest.is_empty() {
            kept.push((other, rest));
        }
        kept
    }

    /// Requests and distributions of this one, which knows what has ended, and bytes of one that knows all that moved.
    pub fn with_sums_of(&self, moving: &Summary) -> Self {
        let mut out = self.alike(false);
        out.weighted = self.weighted || moving.weighted;
        let without = |group: &Group| Group {
            sums: Default::default(),
            ..group.clone()
        };
        let only = |group: &Group| Group {
            sums: group.sums,
            ..Group::default()
        };
        for (key, group) in &self.groups {
            out.put(key.clone(), without(group));
        }
        for (key, group) in &moving.groups {
            out.put(key.clone(), only(group));
        }
        out
    }

    /// Adds all groups of another one.
    pub fn merge(&mut self, other: &Summary, folding: &Folding) {
        self.weighted |= other.weighted;
        for (key, group) in &other.groups {
            self.put(key.clone(), group.clone());
        }
        if self.groups.len() > self.max_keys {
            self.shrink(folding);
        }
    }

    /// Of everything.
    pub fn total(&self) -> Group {
        let mut total = Group::default();
        for (_, group) in &self.groups {
            total.add(group);
        }
        total
    }
}

fn hashed(hasher: &ahash::RandomState, key: &Key) -> u64 {
    let texts: Vec<&str> = key.iter().map(|text| &**text).collect();
    hasher.hash_one(&texts[..])
}

/// The keys of a batch: each row's as one number, and what it says.
struct Keys<'a> {
    rows: Vec<u32>,
    count: usize,
    /// The last column's texts, None for what is not known.
    texts: Vec<Option<&'a str>>,
    /// Of the columns before it: for each number the number there and the one in the last column.
    before: Option<(Box<Keys<'a>>, Pairs)>,
}

type Pairs = Vec<(u32, u32)>;

impl<'a> Keys<'a> {
    fn of(batch: &'a RecordBatch, columns: usize) -> Result<Self, ArrowError> {
        let mut all = Keys::column(batch.column(0))?;
        for n in 1..columns {
            let own = Keys::column(batch.column(n))?;
            let mut known: HashMap<(u32, u32), u32, ahash::RandomState> = HashMap::default();
            let mut pairs = Pairs::new();
            let mut rows = Vec::with_capacity(own.rows.len());
            for pair in all.rows.iter().copied().zip(own.rows.iter().copied()) {
                rows.push(*known.entry(pair).or_insert_with(|| {
                    pairs.push(pair);
                    (pairs.len() - 1) as u32
                }));
            }
            all = Keys {
                rows,
                count: pairs.len(),
                texts: own.texts,
                before: Some((Box::new(all), pairs)),
            };
        }
        Ok(all)
    }

    fn column(column: &'a dyn Array) -> Result<Self, ArrowError> {
        let (texts, rows): (Vec<Option<&str>>, Vec<u32>) = match column.data_type() {
            DataType::Utf8 => plain(column.as_string()),
            DataType::Dictionary(_, _) => {
                let coded = column
                    .as_dictionary_opt::<Int32Type>()
                    .ok_or_else(|| unfit("a key's numbers are not int32"))?;
                let values = coded
                    .values()
                    .as_string_opt::<i32>()
                    .ok_or_else(|| unfit("a key is no string"))?;
                let mut texts: Vec<Option<&str>> = values.iter().collect();
                let unknown = texts.len() as u32;
                texts.push(None);
                let keys = coded.keys().iter();
                (
                    texts,
                    keys.map(|k| k.map_or(unknown, |k| k as u32)).collect(),
                )
            }
            _ => return Err(unfit("a key is no string")),
        };
        Ok(Keys {
            rows,
            count: texts.len(),
            texts,
            before: None,
        })
    }

    fn texts(&self, number: u32) -> Vec<&'a str> {
        let (mut out, last) = match &self.before {
            None => (Vec::new(), number),
            Some((before, pairs)) => {
                let (first, last) = pairs[number as usize];
                (before.texts(first), last)
            }
        };
        out.push(self.texts[last as usize].unwrap_or(UNKNOWN));
        out
    }
}

fn plain(column: &StringArray) -> (Vec<Option<&str>>, Vec<u32>) {
    let mut known: HashMap<Option<&str>, u32, ahash::RandomState> = HashMap::default();
    let mut texts = Vec::new();
    let rows = column.iter().map(|text| {
        *known.entry(text).or_insert_with(|| {
            texts.push(text);
            (texts.len() - 1) as u32
        })
    });
    let rows = rows.collect();
    (texts, rows)
}

fn unfit(why: &str) -> ArrowError {
    ArrowError::InvalidArgumentError(why.into())
}

/// The columns that are added up.
struct Values<'a> {
    sums: [&'a Int64Array; SUMS.len()],
    duration: &'a Int64Array,
    weight: &'a Float64Array,
    complete: &'a BooleanArray,
    ended: Option<&'a BooleanArray>,
}

impl<'a> Values<'a> {
    fn of(batch: &'a RecordBatch) -> Result<Self, ArrowError> {
        let column = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| unfit(&format!("no column {name}")))
        };
        let number = |name: &str| {
            column(name)?
                .as_primitive_opt::<Int64Type>()
                .ok_or_else(|| unfit(&format!("{name} is not int64")))
        };
        let flag = |name: &str| {
            column(name)?
                .as_boolean_opt()
                .ok_or_else(|| unfit(&format!("{name} is not boolean")))
        };
        let mut sums = [number(SUMS[0])?; SUMS.len()];
        for (sum, name) in sums.iter_mut().zip(SUMS) {
            *sum = number(name)?;
        }
        Ok(Values {
            sums,
            duration: number("duration_ns")?,
            weight: column("weight")?
                .as_primitive_opt::<Float64Type>()
                .ok_or_else(|| unfit("weight is not double"))?,
            complete: flag("complete")?,
            ended: batch
                .column_by_name("ended")
                .map(|_| flag("ended"))
                .transpose()?,
        })
    }

    #[inline]
    fn add_row(&self, row: usize, weight: f64, only_sums: bool, group: &mut Group) {
        let known = |column: &Int64Array| column.is_valid(row).then(|| column.value(row));
        for (sum, column) in group.sums.iter_mut().zip(self.sums) {
            *sum += known(column).unwrap_or(0) as f64 * weight;
        }
        if self.ended.is_some_and(|ended| !ended.value(row)) {
            return;
        }
        group.requests += weight;
        if !self.complete.value(row) {
            group.incomplete += weight;
        }
        let wire = WIRE.map(|at| known(self.sums[at]).unwrap_or(0));
        for (largest, size) in group.largest.iter_mut().zip(wire) {
            *largest = (*largest).max(size);
        }
        if only_sums {
            return;
        }
        group.sizes.add(bucket(wire[0] + wire[1]), weight);
        if let Some(duration) = known(self.duration) {
            group.latencies.add(bucket(duration), weight);
        }
    }
}
