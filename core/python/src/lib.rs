//! The Python binding: buffers in, Arrow columns and counters out, and nothing else.

mod attribution;
mod options;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::{Array, StructArray};
use options::{EngineOptions, Rules};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict};
use replaykit_engine::account::Account;
use replaykit_engine::bytes::source;
use replaykit_engine::endpoint::Templates;
use replaykit_engine::gor::message::{Messages, Rows};
use replaykit_engine::gor::outgoing::{Outgoing, Target};
use replaykit_engine::http1::answer::Fed;
use replaykit_engine::plugin::reading::{Kind, Message};
use replaykit_engine::walk;
use replaykit_parquet::JoinError;
use std::net::IpAddr;
use std::path::PathBuf;

/// Batches are built and dropped many times a second: this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs `work` over a buffer's bytes without the GIL.
fn with_bytes<T: Send>(
    py: Python<'_>,
    buffer: &PyBuffer<u8>,
    from: usize,
    to: usize,
    work: impl FnOnce(&[u8]) -> T + Send,
) -> PyResult<T> {
    if !buffer.is_c_contiguous() || from > to || to > buffer.len_bytes() {
        return Err(PyValueError::new_err(
            "the buffer is not contiguous, or the range lies outside it",
        ));
    }
    if from == to {
        return Ok(py.detach(|| work(&[])));
    }
    // SAFETY: `buffer` keeps the memory alive and in place, it is contiguous, and the range lies
    // inside. Callers hand over memory that nobody writes meanwhile: a read-only mapping, bytes, or
    // a ring block that the kernel has passed to user space.
    let bytes = unsafe {
        std::slice::from_raw_parts(
            buffer.buf_ptr().cast::<u8>().add(from).cast_const(),
            to - from,
        )
    };
    Ok(py.detach(|| work(bytes)))
}

/// Runs `work` over messages whose places are known, without the GIL.
fn with_rows<T: Send>(
    py: Python<'_>,
    gor: &PyBuffer<u8>,
    record: &PyBuffer<u64>,
    end: &PyBuffer<u64>,
    work: impl FnOnce(&Rows) -> T + Send,
) -> PyResult<T> {
    let places = (record.to_vec(py)?, end.to_vec(py)?);
    with_bytes(py, gor, 0, gor.len_bytes(), |b| {
        Rows::new(b, &places.0, &places.1).map(|rows| work(&rows))
    })?
    .ok_or_else(|| PyValueError::new_err("a message lies outside its buffer"))
}

fn arrow<'py>(
    py: Python<'py>,
    batch: &dyn Array,
) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
    let failed = |e: arrow_schema::ArrowError| PyRuntimeError::new_err(e.to_string());
    let data = batch.to_data();
    let schema = FFI_ArrowSchema::try_from(data.data_type()).map_err(failed)?;
    let schema = PyCapsule::new(py, schema, Some(c"arrow_schema".to_owned()))?;
    let array = PyCapsule::new(
        py,
        FFI_ArrowArray::new(&data),
        Some(c"arrow_array".to_owned()),
    )?;
    Ok((schema, array))
}

fn failed(error: arrow_schema::ArrowError) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

fn counters<'py>(py: Python<'py>, account: &Account) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    for (name, value) in account.entries() {
        out.set_item(name, value)?;
    }
    Ok(out)
}

/// A plug-in's message, by its attributes.
#[derive(FromPyObject)]
struct PluginMessage {
    kind: String,
    size: i64,
    method: String,
    target: String,
    endpoint: String,
    status: Option<i16>,
}

/// See `replaykit/engine/engine.py`, which describes this class.
#[pyclass]
struct Engine {
    engine: replaykit_engine::Engine,
}

#[pymethods]
impl Engine {
    #[new]
    fn new(options: EngineOptions) -> PyResult<Self> {
        let engine = replaykit_engine::Engine::new(options.try_into()?);
        Ok(Engine { engine })
    }

    fn next_file(&mut self) {
        self.engine.next_file();
    }

    #[pyo3(signature = (data, start, end))]
    fn feed_file(
        &mut self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        start: usize,
        end: usize,
    ) -> PyResult<usize> {
        let engine = &mut self.engine;
        with_bytes(py, &data, start, end, |b| engine.feed_file(b))?
            .map_err(|broken| PyValueError::new_err((broken.offset, broken.what)))
    }

    #[pyo3(signature = (data, start, end, last = false))]
    fn feed_gor(
        &mut self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        start: usize,
        end: usize,
        last: bool,
    ) -> PyResult<usize> {
        let engine = &mut self.engine;
        with_bytes(py, &data, start, end, |b| engine.feed_gor(b, last))
    }

    fn feed_rows(
        &mut self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        record: PyBuffer<u64>,
        end: PyBuffer<u64>,
    ) -> PyResult<()> {
        let engine = &mut self.engine;
        with_rows(py, &data, &record, &end, |rows| engine.feed_rows(rows))
    }

    #[pyo3(signature = (data, start, end))]
    fn feed_block(
        &mut self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        start: usize,
        end: usize,
    ) -> PyResult<usize> {
        let engine = &mut self.engine;
        with_bytes(py, &data, start, end, |b| engine.feed_block(b))
    }

    fn feed_packet(&mut self, link: u32, time_ns: i64, length: u64, data: &[u8]) {
        self.engine.feed_packet(link, time_ns, length, data);
    }

    fn advance(&mut self, py: Python<'_>, now_ns: i64) {
        py.detach(|| self.engine.advance(now_ns));
    }

    fn finish(&mut self, py: Python<'_>) {
        py.detach(|| self.engine.finish());
    }

    #[getter]
    fn rows(&self) -> usize {
        self.engine.rows()
    }

    #[getter]
    fn message_bytes(&self) -> usize {
        self.engine.message_bytes()
    }

    #[getter]
    fn bad_records(&self) -> u64 {
        self.engine.bad_records()
    }

    /// Connections in the table, and bytes in all buffers.
    #[getter]
    fn held(&self) -> (usize, usize) {
        self.engine.held()
    }

    /// The finished exchanges, as Arrow C data interface capsules (schema, array).
    fn take_exchanges<'py>(
        &mut self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        let batch = self
            .engine
            .take_exchanges()
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        arrow(py, &StructArray::from(batch))
    }

    /// What exchanges in flight moved, as Arrow capsules.
    fn take_increments<'py>(&mut self, py: Python<'py>) -> PyResult<Capsules<'py>> {
        let batch = self.engine.take_increments().map_err(failed)?;
        arrow(py, &StructArray::from(batch))
    }

    #[getter]
    fn increments(&self) -> usize {
        self.engine.increments()
    }

    /// The exchanges in flight, as Arrow capsules.
    fn in_flight<'py>(&mut self, py: Python<'py>) -> PyResult<Capsules<'py>> {
        let batch = self.engine.in_flight().map_err(failed)?;
        arrow(py, &StructArray::from(batch))
    }

    /// The finished messages, as Arrow capsules: the .gor records' bytes, and the index into them.
    fn take_messages<'py>(
        &mut self,
        py: Python<'py>,
    ) -> PyResult<[(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>); 2]> {
        let (gor, index) = self
            .engine
            .take_messages()
            .into_arrow()
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        Ok([arrow(py, &gor)?, arrow(py, &StructArray::from(index))?])
    }

    #[getter]
    fn pieces(&self) -> usize {
        self.engine.pieces()
    }

    /// What plug-ins are to read: the bytes, and a row a piece.
    fn take_pieces<'py>(
        &mut self,
        py: Python<'py>,
    ) -> PyResult<[(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>); 2]> {
        let (bytes, index) = self
            .engine
            .take_pieces()
            .into_arrow()
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        Ok([arrow(py, &bytes)?, arrow(py, &StructArray::from(index))?])
    }

    fn open_stream(&mut self, connection: u64, ends: [(IpAddr, u16); 2]) {
        let ends = ends.map(|(address, port)| (address.into(), port));
        self.engine.open_stream(connection, ends);
    }

    fn feed_stream(&mut self, connection: u64, server: bool, time_ns: i64, data: &[u8]) {
        self.engine.feed_stream(connection, server, time_ns, data);
    }

    fn close_stream(&mut self, connection: u64) {
        self.engine.close_stream(connection);
    }

    fn add_keys(&mut self, py: Python<'_>, data: &[u8], restart: bool) {
        py.detach(|| self.engine.add_keys(data, restart));
    }

    fn note_randoms(&mut self) {
        self.engine.note_randoms();
    }

    #[getter]
    fn noted_randoms<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.engine.noted_randoms())
    }

    fn keep_keys_of(&mut self, randoms: &[u8]) {
        self.engine.keep_keys_of(randoms);
    }

    #[getter]
    fn keys_forgotten(&self) -> u64 {
        self.engine.keys_forgotten()
    }

    /// Secrets that were added, and TLS connections that were read with them.
    #[getter]
    fn keys(&self) -> (u64, u64) {
        self.engine.keys()
    }

    /// `message`: of `replaykit/engine/protocol.py`. False: there are no such bytes.
    fn plugin_message(
        &mut self,
        connection: u64,
        server: bool,
        message: PluginMessage,
        protocol: u8,
    ) -> PyResult<bool> {
        let kind = match &message.kind[..] {
            "request" => Kind::Request,
            "response" => Kind::Response,
            "push" => Kind::Push,
            "overhead" => Kind::Overhead,
            kind => return Err(PyValueError::new_err(format!("no kind {kind:?}"))),
        };
        let message = Message {
            kind,
            server,
            size: u64::try_from(message.size).unwrap_or(0),
            method: message.method.as_bytes(),
            target: message.target.as_bytes(),
            endpoint: message.endpoint.as_bytes(),
            status: message.status.unwrap_or(0),
            protocol,
        };
        Ok(self.engine.plugin_message(connection, &message))
    }

    fn plugin_give_up(&mut self, connection: u64, missing: u64) {
        self.engine.plugin_give_up(connection, missing);
    }

    fn plugin_rest(&mut self, connection: u64) {
        self.engine.plugin_rest(connection);
    }

    fn plugin_close(&mut self, connection: u64) {
        self.engine.plugin_close(connection);
    }

    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        counters(py, self.engine.account())
    }
}

/// See `replaykit/engine/engines.py`, which describes this class.
#[pyclass]
struct Dealer {
    dealer: replaykit_engine::dealer::Dealer,
}

#[pymethods]
impl Dealer {
    #[new]
    fn new(options: EngineOptions) -> PyResult<Self> {
        let dealer = replaykit_engine::dealer::Dealer::new(&options.try_into()?);
        Ok(Dealer { dealer })
    }

    fn next_file(&mut self) {
        self.dealer.next_file();
    }

    fn feed_file(
        &mut self,
        py: Python<'_>,
        mut engines: Vec<PyRefMut<'_, Engine>>,
        data: PyBuffer<u8>,
        start: usize,
        end: usize,
    ) -> PyResult<usize> {
        let dealer = &mut self.dealer;
        let mut seats: Vec<_> = engines.iter_mut().map(|e| &mut e.engine).collect();
        with_bytes(py, &data, start, end, |b| dealer.feed_file(b, &mut seats))?
            .map_err(|broken| PyValueError::new_err((broken.offset, broken.what)))
    }

    fn finish(&mut self) {
        self.dealer.finish();
    }

    fn account<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        counters(py, self.dealer.account())
    }
}

/// See `replaykit/engine/gor_records.py`, which describes this class.
#[pyclass]
struct Records {
    records: replaykit_engine::gor::records::Records,
}

#[pymethods]
impl Records {
    #[new]
    fn new(rules: Rules, depth: usize) -> PyResult<Self> {
        let records = replaykit_engine::gor::records::Records::new(rules.try_into()?, depth);
        Ok(Records { records })
    }

    #[pyo3(signature = (data, start, end, last = false))]
    fn feed(
        &mut self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        start: usize,
        end: usize,
        last: bool,
    ) -> PyResult<usize> {
        let records = &mut self.records;
        with_bytes(py, &data, start, end, |b| records.feed(b, last))
    }

    fn feed_rows(
        &mut self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        record: PyBuffer<u64>,
        end: PyBuffer<u64>,
    ) -> PyResult<()> {
        let records = &mut self.records;
        with_rows(py, &data, &record, &end, |rows| records.feed_rows(rows))
    }

    #[getter]
    fn rows(&self) -> usize {
        self.records.rows()
    }

    #[getter]
    fn bytes(&self) -> usize {
        self.records.bytes()
    }

    /// records, requests, denied, bad, disordered, denied requests
    fn counts(&self) -> [u64; 6] {
        let c = self.records.counts;
        [
            c.records,
            c.requests,
            c.denied,
            c.bad,
            c.disordered,
            c.denied_requests,
        ]
    }

    fn take_messages<'py>(&mut self, py: Python<'py>, last: bool) -> PyResult<[Capsules<'py>; 2]> {
        let taken = self.records.take_messages(last);
        let (gor, index) = taken
            .into_arrow()
            .map_err(|e| PyRuntimeError::new_err(e.to_string()))?;
        Ok([arrow(py, &gor)?, arrow(py, &StructArray::from(index))?])
    }
}

/// See `replaykit/replaying/response.py`, which describes this class.
#[pyclass]
#[derive(Default)]
struct Answers {
    answers: replaykit_engine::http1::answer::Answers,
    used: usize,
}

#[pymethods]
impl Answers {
    #[new]
    fn new() -> Self {
        Answers::default()
    }

    fn begin(&mut self, head: bool) {
        self.answers.begin(head);
    }

    fn feed(&mut self, data: &[u8]) -> i32 {
        match self.answers.feed(data) {
            Fed::More => 0,
            Fed::Invalid => -1,
            Fed::Done(status, used) => {
                self.used = used;
                i32::from(status)
            }
        }
    }

    fn end(&self) -> u16 {
        self.answers.end().unwrap_or(0)
    }

    #[getter]
    fn keep(&self) -> bool {
        self.answers.keep
    }

    #[getter]
    fn used(&self) -> usize {
        self.used
    }
}

type Capsules<'py> = (Bound<'py, PyCapsule>, Bound<'py, PyCapsule>);

/// See `replaykit/replaying/outgoing.py`: the bytes to send, and a row a record.
#[pyfunction]
fn outgoing<'py>(
    py: Python<'py>,
    gor: PyBuffer<u8>,
    record: PyBuffer<u64>,
    end: PyBuffer<u64>,
    host: Option<Vec<u8>>,
    prefix: Vec<u8>,
    fixed: Option<Vec<u8>>,
) -> PyResult<[Capsules<'py>; 2]> {
    let target = Target {
        host,
        prefix,
        fixed,
    };
    let out = with_rows(py, &gor, &record, &end, |rows| {
        Outgoing::prepare(rows, &target)
    })?;
    let failed = |e: arrow_schema::ArrowError| PyRuntimeError::new_err(e.to_string());
    let (data, index) = out.into_arrow().map_err(failed)?;
    Ok([arrow(py, &data)?, arrow(py, &StructArray::from(index))?])
}

/// How often a pattern occurs.
#[pyfunction]
fn occurrences(py: Python<'_>, data: PyBuffer<u8>, pattern: Vec<u8>) -> PyResult<usize> {
    with_bytes(py, &data, 0, data.len_bytes(), |b| {
        memchr::memmem::find_iter(b, &pattern).count()
    })
}

/// The finished messages of several engines, by time; those of one keep their order.
#[pyfunction]
fn merged_messages<'py>(
    py: Python<'py>,
    mut engines: Vec<PyRefMut<'py, Engine>>,
) -> PyResult<[Capsules<'py>; 2]> {
    let taken: Vec<_> = engines
        .iter_mut()
        .map(|e| e.engine.take_messages())
        .collect();
    let merged = py.detach(|| Messages::merged(&taken));
    let (gor, index) = merged.into_arrow().map_err(failed)?;
    Ok([arrow(py, &gor)?, arrow(py, &StructArray::from(index))?])
}

/// The endpoint of each path, by the patterns given and by shape.
#[pyfunction]
fn endpoints(patterns: Vec<String>, paths: Vec<String>) -> Vec<String> {
    let templates = Templates::new(&patterns);
    paths.iter().map(|p| templates.endpoint(p)).collect()
}

/// Joins Parquet files of one schema into `target`, without decoding them; gives the rows. Raises OSError, ValueError.
#[pyfunction]
fn join_parquet(py: Python<'_>, parts: Vec<PathBuf>, target: PathBuf) -> PyResult<i64> {
    py.detach(|| replaykit_parquet::join(&parts, &target))
        .map_err(|error| match error {
            JoinError::Io(error) => error.into(),
            JoinError::Parquet(error) => PyValueError::new_err(error.to_string()),
        })
}

/// Walks a capture's headers only; returns packets, link bytes, TCP payload bytes.
#[pyfunction]
fn walk_headers(py: Python<'_>, data: PyBuffer<u8>) -> PyResult<[u64; 3]> {
    let mut totals = [0; 3];
    let mut file = source::File::default();
    with_bytes(py, &data, 0, data.len_bytes(), |b| {
        walk(b, &mut totals, &mut file)
    })?
    .map_err(|broken| PyValueError::new_err((broken.offset, broken.what)))?;
    Ok(totals)
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    // Batches of one size come and go: giving their pages back to the system and having them zeroed
    // again costs more than the work on them.
    const PURGE_DELAY: i32 = 15;
    // SAFETY: sets a number in the allocator's own table of options.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<Engine>()?;
    m.add_class::<Dealer>()?;
    m.add_class::<attribution::Folding>()?;
    m.add_class::<attribution::Summary>()?;
    m.add_class::<Records>()?;
    m.add_class::<Answers>()?;
    m.add_function(wrap_pyfunction!(outgoing, m)?)?;
    m.add_function(wrap_pyfunction!(occurrences, m)?)?;
    m.add_function(wrap_pyfunction!(merged_messages, m)?)?;
    m.add_function(wrap_pyfunction!(endpoints, m)?)?;
    m.add_function(wrap_pyfunction!(join_parquet, m)?)?;
    m.add_function(wrap_pyfunction!(walk_headers, m)?)
}
