//! Rows to Arrow columns: some hundred are spread at a time, all are taken as one batch.

use crate::exchange::columns::{
    Columns, Row, ABSENT, ALPNS, ANOMALY, CLIENT_IP, ENCODINGS, ENDPOINT, HOSTS, METHODS, PATH,
    PROTOCOL, PROXY_IP, SCHEME, SERVER_IP, TARGETS, TRACES, TYPES,
};
use crate::exchange::values::{renew, Numbers};
use crate::exchange::EXTRA;
use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch,
    TimestampNanosecondArray, UInt16Array, UInt64Array,
};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use std::sync::Arc;

impl Columns {
    /// Spreads the staged rows over the columns, a column at a time.
    pub(super) fn spread(&mut self) {
        let rows = &self.stage[..];
        let q = rows.iter().all(|r| r.request_seen);
        let p = rows.iter().all(|r| r.response_seen);
        self.time.extend(rows, q, |r| r.time, |r| r.request_seen);
        self.response_time
            .extend(rows, p, |r| r.response_time, |r| r.response_seen);
        let both = |r: &Row| r.request_seen && r.response_seen && !r.response_first;
        let all = rows.iter().all(both);
        self.duration
            .extend(rows, all, |r| r.last.wrapping_sub(r.time), both);
        self.first_byte
            .extend(rows, all, |r| r.response_time.wrapping_sub(r.time), both);
        self.connection.extend(rows.iter().map(|r| r.connection));
        self.stream.extend(rows.iter().map(|r| r.stream));
        self.client_port.extend(rows.iter().map(|r| r.client_port));
        self.server_port.extend(rows.iter().map(|r| r.server_port));
        let proxied = |r: &Row| r.keys[PROXY_IP] != ABSENT;
        let all = rows.iter().all(proxied);
        self.proxy_port.extend(rows, all, |r| r.proxy_port, proxied);
        for (i, texts) in self.texts.iter_mut().enumerate() {
            let all = rows.iter().all(|r| r.keys[i] != ABSENT);
            texts
                .keys
                .extend(rows, all, |r| r.keys[i].max(0), |r| r.keys[i] != ABSENT);
        }
        let answered = rows.iter().all(|r| r.status != 0);
        self.status
            .extend(rows, answered, |r| r.status, |r| r.status != 0);
        for i in 0..4 {
            self.request[i].extend(rows, q, |r| r.request[i], |r| r.request_seen);
            self.response[i].extend(rows, p, |r| r.response[i], |r| r.response_seen);
        }
        self.link_bytes.extend(rows.iter().map(|r| r.link_bytes));
        self.retransmitted
            .extend(rows.iter().map(|r| r.retransmitted));
        self.complete.extend(rows.iter().map(|r| r.complete));
        self.missing.extend(rows.iter().map(|r| r.missing));
        if let Some(numbers) = &mut self.numbers {
            numbers.extend(rows.iter().map(|r| r.number));
        }
        let before = self.missing.len() - rows.len();
        if self.extras || rows.iter().any(|r| r.extra.is_some()) {
            self.extras = true;
            for (i, column) in self.extra.iter_mut().enumerate() {
                column.extend(rows, before, |r| r.extra.as_ref().and_then(|e| e.0[i]));
            }
        }
        self.stage.clear();
    }

    /// Takes the rows as one record batch.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.spread();
        let n = std::mem::take(&mut self.rows);
        self.splits.clear();
        self.batch += 1;
        let mut fields: Vec<Field> = Vec::with_capacity(48);
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(48);
        let mut add = |name: &str, array: ArrayRef, nullable: bool| {
            fields.push(Field::new(name, array.data_type().clone(), nullable));
            arrays.push(array);
        };
        let int64 = |column: &mut Numbers<i64>| -> ArrayRef {
            let (values, nulls) = column.take();
            Arc::new(Int64Array::new(values.into(), nulls))
        };
        let plain =
            |column: &mut Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(renew(column))) };
        let stamp = |column: &mut Numbers<i64>| -> ArrayRef {
            let (values, nulls) = column.take();
            Arc::new(TimestampNanosecondArray::new(values.into(), nulls).with_timezone("UTC"))
        };
        add("time", stamp(&mut self.time), true);
        add("response_time", stamp(&mut self.response_time), true);
        add("duration_ns", int64(&mut self.duration), true);
        add("first_byte_ns", int64(&mut self.first_byte), true);
        add(
            "connection",
            Arc::new(UInt64Array::from(renew(&mut self.connection))),
            false,
        );
        add(
            "stream",
            Arc::new(Int32Array::from(renew(&mut self.stream))),
            false,
        );
        add("protocol", self.texts[PROTOCOL].take()?, false);
        add("client_ip", self.texts[CLIENT_IP].take()?, false);
        add(
            "client_port",
            Arc::new(UInt16Array::from(renew(&mut self.client_port))),
            false,
        );
        add("server_ip", self.texts[SERVER_IP].take()?, false);
        add(
            "server_port",
            Arc::new(UInt16Array::from(renew(&mut self.server_port))),
            false,
        );
        add("method", self.texts[METHODS].take()?, true);
        add("scheme", self.texts[SCHEME].take()?, true);
        add("host", self.texts[HOSTS].take()?, true);
        add("target", self.texts[TARGETS].take()?, true);
        add("path", self.texts[PATH].take()?, true);
        add("endpoint", self.texts[ENDPOINT].take()?, true);
        let (status, nulls) = self.status.take();
        add(
            "status",
            Arc::new(Int16Array::new(status.into(), nulls)),
            true,
        );
        add("content_type", self.texts[TYPES].take()?, true);
        add("content_encoding", self.texts[ENCODINGS].take()?, true);
        let sizes = ["header_bytes", "body_bytes", "wire_bytes", "packets"];
        for (i, size) in sizes.iter().enumerate() {
            add(
                &format!("request_{size}"),
                int64(&mut self.request[i]),
                true,
            );
            add(
                &format!("response_{size}"),
                int64(&mut self.response[i]),
                true,
            );
        }
        add("link_bytes", plain(&mut self.link_bytes), false);
        add("retransmitted_bytes", plain(&mut self.retransmitted), false);
        add(
            "complete",
            Arc::new(BooleanArray::from(renew(&mut self.complete))),
            false,
        );
        add("missing_bytes", plain(&mut self.missing), false);
        add("trace_id", self.texts[TRACES].take()?, true);
        add(
            "weight",
            Arc::new(Float64Array::from(vec![self.weight; n])),
            false,
        );
        add("anomaly", self.texts[ANOMALY].take()?, true);
        add("alpn", self.texts[ALPNS].take()?, true);
        add("proxy_ip", self.texts[PROXY_IP].take()?, true);
        let (ports, nulls) = self.proxy_port.take();
        let ports = UInt16Array::new(ports.into(), nulls);
        add("proxy_port", Arc::new(ports), true);
        let nothing = arrow_array::new_null_array(&DataType::Int64, n);
        for (name, column) in EXTRA.iter().zip(&mut self.extra) {
            add(name, column.take(&nothing), true);
        }
        self.extras = false;
        if let Some(numbers) = &mut self.numbers {
            let numbers = UInt64Array::from(renew(numbers));
            add("exchange", Arc::new(numbers), false);
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
    }
}
