//! Columns of one kind of value: numbers that may be null, and strings through a dictionary per batch.

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Int32Array, Int64Array, StringArray};
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::ArrowError;
use hashbrown::HashTable;
use std::sync::Arc;

/// A dictionary of strings for one batch.
#[derive(Default)]
pub(super) struct Strings {
    pub(super) table: HashTable<u32>,
    pub(super) offsets: Vec<i32>,
    pub(super) values: Vec<u8>,
    pub(super) hasher: ahash::RandomState,
    pub(super) last: Option<u32>,
}

impl Strings {
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let from = if i == 0 {
            0
        } else {
            self.offsets[i - 1] as usize
        };
        &self.values[from..self.offsets[i] as usize]
    }

    /// The string's number, and whether it is new.
    #[inline]
    pub(super) fn intern(&mut self, text: &[u8]) -> (u32, bool) {
        if let Some(last) = self.last {
            if self.get(last) == text {
                return (last, false);
            }
        }
        let hash = self.hasher.hash_one(text);
        if let Some(&id) = self.table.find(hash, |&id| self.get(id) == text) {
            self.last = Some(id);
            return (id, false);
        }
        let id = self.offsets.len() as u32;
        self.values.extend_from_slice(text);
        self.offsets.push(self.values.len() as i32);
        let (offsets, values, hasher) = (&self.offsets, &self.values, &self.hasher);
        self.table.insert_unique(hash, id, |&id| {
            let i = id as usize;
            let from = if i == 0 { 0 } else { offsets[i - 1] as usize };
            hasher.hash_one(&values[from..offsets[i] as usize])
        });
        self.last = Some(id);
        (id, true)
    }

    /// The values as Arrow strings; bytes that are not UTF-8 become U+FFFD.
    pub(super) fn take(&mut self) -> Result<StringArray, ArrowError> {
        let values = std::mem::take(&mut self.values);
        let mut offsets = Vec::with_capacity(self.offsets.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.offsets);
        self.table.clear();
        self.last = None;
        let clean = std::str::from_utf8(&values)
            .is_ok_and(|text| offsets.iter().all(|&at| text.is_char_boundary(at as usize)));
        if clean {
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            return StringArray::try_new(offsets, values.into(), None);
        }
        Ok(StringArray::from_iter_values(offsets.windows(2).map(|w| {
            String::from_utf8_lossy(&values[w[0] as usize..w[1] as usize]).into_owned()
        })))
    }
}

/// Takes a column's values; the next batch is likely to be as long.
pub(super) fn renew<T>(column: &mut Vec<T>) -> Vec<T> {
    let room = column.len();
    std::mem::replace(column, Vec::with_capacity(room))
}

/// A nullable column of numbers.
pub(super) struct Numbers<T> {
    pub(super) values: Vec<T>,
    valid: Vec<bool>,
    pub(super) nulls: bool,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Numbers {
            values: Vec::new(),
            valid: Vec::new(),
            nulls: false,
        }
    }
}

impl<T> Numbers<T> {
    /// Adds a value a row; `all` says that every row has one.
    #[inline]
    pub(super) fn extend<R>(
        &mut self,
        rows: &[R],
        all: bool,
        value: impl Fn(&R) -> T,
        valid: impl Fn(&R) -> bool,
    ) {
        if !all && !self.nulls {
            self.nulls = true;
            self.valid.resize(self.values.len(), true);
        }
        self.values.extend(rows.iter().map(&value));
        if self.nulls {
            self.valid.extend(rows.iter().map(valid));
        }
    }

    pub(super) fn take(&mut self) -> (Vec<T>, Option<NullBuffer>) {
        let values = renew(&mut self.values);
        let nulls = self.nulls.then(|| NullBuffer::from(renew(&mut self.valid)));
        self.nulls = false;
        (values, nulls)
    }
}

/// A column that most batches have no value for.
#[derive(Default)]
pub(super) struct Rare(Vec<Option<i64>>);

impl Rare {
    /// Adds the values of `rows` after `before` others.
    pub(super) fn extend<R>(
        &mut self,
        rows: &[R],
        before: usize,
        value: impl Fn(&R) -> Option<i64>,
    ) {
        if !self.0.is_empty() || rows.iter().any(|r| value(r).is_some()) {
            self.0.resize(before, None);
            self.0.extend(rows.iter().map(&value));
        }
    }

    pub(super) fn take(&mut self, nothing: &ArrayRef) -> ArrayRef {
        if self.0.is_empty() {
            return nothing.clone();
        }
        Arc::new(Int64Array::from(renew(&mut self.0)))
    }
}

/// A column of dictionary keys.
#[derive(Default)]
pub(super) struct Texts {
    pub(super) keys: Numbers<i32>,
    pub(super) strings: Strings,
}

impl Texts {
    #[inline]
    pub(super) fn key(&mut self, text: &[u8]) -> i32 {
        self.strings.intern(text).0 as i32
    }

    pub(super) fn take(&mut self) -> Result<ArrayRef, ArrowError> {
        let (keys, nulls) = self.keys.take();
        let keys = Int32Array::new(keys.into(), nulls);
        let values = self.strings.take()?;
        Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(
            keys,
            Arc::new(values),
        )?))
    }
}
