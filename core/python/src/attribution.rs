//! Sums and names of endpoints, as `replaykit/attribution/` uses them.

use crate::{failed, Capsules};
use arrow_array::ffi::{from_ffi, FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::{RecordBatch, StructArray};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCapsuleMethods;
use replaykit_attribution::buckets::Buckets;
use replaykit_attribution::folding;
use replaykit_attribution::summary::{self, Group, Measure};

/// A batch that Arrow's C data interface hands over; it is ours afterwards.
fn batch(capsules: Capsules<'_>) -> PyResult<RecordBatch> {
    let (schema, array) = capsules;
    let schema = schema.pointer_checked(Some(c"arrow_schema"))?;
    let array = array.pointer_checked(Some(c"arrow_array"))?;
    // SAFETY: the capsules' names say what they hold (the Arrow PyCapsule interface); each is taken once, and what is
    // left in them is marked as released.
    let data = unsafe {
        let schema = FFI_ArrowSchema::from_raw(schema.as_ptr().cast());
        let array = FFI_ArrowArray::from_raw(array.as_ptr().cast());
        from_ffi(array, &schema)
    };
    Ok(StructArray::from(data.map_err(failed)?).into())
}

/// See `replaykit/attribution/folding.py`, which describes this class.
#[pyclass]
pub struct Folding {
    folding: folding::Folding,
}

#[pymethods]
impl Folding {
    #[new]
    fn new(most: usize, most_nodes: usize) -> Self {
        Folding {
            folding: folding::Folding::new(most, most_nodes),
        }
    }

    fn learn(&mut self, endpoints: Vec<Option<String>>) {
        for endpoint in endpoints.iter().flatten() {
            self.folding.learn(endpoint);
        }
    }

    fn names(&self, endpoints: Vec<Option<String>>) -> Vec<Option<String>> {
        let name = |endpoint: String| self.folding.name(&endpoint);
        endpoints.into_iter().map(|e| e.map(name)).collect()
    }

    #[getter]
    fn nodes(&self) -> usize {
        self.folding.nodes()
    }

    fn take_news(&mut self) -> Vec<String> {
        self.folding.take_news()
    }

    fn places(&self) -> Vec<String> {
        self.folding.places()
    }

    fn fold_at(&mut self, places: Vec<String>) {
        for place in places {
            self.folding.fold_at(&place);
        }
    }
}

/// requests, incomplete, sums, the largest, sizes, latencies
type Totals = (
    f64,
    f64,
    Vec<f64>,
    [i64; 2],
    Vec<(i16, f64)>,
    Vec<(i16, f64)>,
);

fn totals(group: &Group) -> Totals {
    let entries = |buckets: &Buckets| buckets.entries().to_vec();
    (
        group.requests,
        group.incomplete,
        group.sums.to_vec(),
        group.largest,
        entries(&group.sizes),
        entries(&group.latencies),
    )
}

/// See `replaykit/attribution/summary.py`, which describes this class.
#[pyclass]
pub struct Summary {
    summary: summary::Summary,
}

#[pymethods]
impl Summary {
    #[new]
    fn new(keys: usize, endpoint: Option<usize>, most: usize, measure: &str) -> PyResult<Self> {
        let measure = match measure {
            "wire" => Measure::Wire,
            "link" => Measure::Link,
            "body" => Measure::Body,
            other => return Err(PyValueError::new_err(format!("no measure {other:?}"))),
        };
        Ok(Summary {
            summary: summary::Summary::new(keys, endpoint, most, measure),
        })
    }

    fn alike(&self, only_sums: bool) -> Self {
        Summary {
            summary: self.summary.alike(only_sums),
        }
    }

    fn add(
        &mut self,
        py: Python<'_>,
        columns: Capsules<'_>,
        folding: &mut Folding,
    ) -> PyResult<()> {
        let batch = batch(columns)?;
        let (summary, folding) = (&mut self.summary, &mut folding.folding);
        py.detach(|| summary.add(&batch, folding)).map_err(failed)
    }

    fn merge(&mut self, other: &Summary, folding: &Folding) {
        self.summary.merge(&other.summary, &folding.folding);
    }

    fn with_sums_of(&self, moving: &Summary) -> Self {
        Summary {
            summary: self.summary.with_sums_of(&moving.summary),
        }
    }

    fn total(&self) -> Totals {
        totals(&self.summary.total())
    }

    fn top(&mut self, most: Option<usize>, folding: &Folding) -> Vec<(Vec<String>, Totals)> {
        self.summary
            .top(most.unwrap_or(usize::MAX), &folding.folding)
            .iter()
            .map(|(key, group)| {
                let key = key.iter().map(|text| text.to_string());
                (key.collect(), totals(group))
            })
            .collect()
    }

    #[getter]
    fn weighted(&self) -> bool {
        self.summary.weighted
    }
}
