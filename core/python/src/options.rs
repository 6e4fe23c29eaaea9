//! What Python says of a run or of a .gor's rules: each a structure that is read from an object's attributes.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use regex::bytes::Regex;
use replaykit_engine::bytes::envelope::Vxlan;
use replaykit_engine::client_from::ClientFrom;
use replaykit_engine::endpoint::Templates;
use replaykit_engine::filter::{Filters, HeaderRule, Redaction};
use replaykit_engine::gor::rewrite::Modifier;
use replaykit_engine::options::Options;

type HeaderPattern = (String, Option<String>);

/// `replaykit/engine/options.py`
#[derive(FromPyObject)]
pub struct EngineOptions {
    ports: Vec<u16>,
    real_ip_header: String,
    client_from: Option<(String, usize)>,
    allow_incomplete: bool,
    weight: f64,
    requests: bool,
    responses: bool,
    slice_ns: i64,
    first_connection: u64,
    max_connections: usize,
    max_ended: usize,
    max_connection_bytes: usize,
    max_head_bytes: usize,
    max_message_bytes: usize,
    max_buffer_bytes: usize,
    max_pipeline: usize,
    max_held: usize,
    idle_ns: i64,
    linger_ns: i64,
    reorder_ns: i64,
    hole_ns: i64,
    settle_ns: i64,
    settle_segments: usize,
    vxlan_ports: Vec<u16>,
    vxlan_vnis: Vec<i64>,
    raw: bool,
    protocols: Vec<String>,
    plugin_ports: Vec<u16>,
    tls_keys: Option<String>,
    endpoints: Vec<String>,
    allow_headers: Vec<HeaderPattern>,
    deny_headers: Vec<HeaderPattern>,
    allow_methods: Vec<String>,
    deny_methods: Vec<String>,
    allow_urls: Vec<String>,
    deny_urls: Vec<String>,
    first_field_only: bool,
    redact_headers: Vec<String>,
    redact_parameters: Vec<String>,
}

/// `replaykit/engine/rewriting.py`
#[derive(FromPyObject)]
pub struct Rules {
    allow_headers: Vec<HeaderPattern>,
    deny_headers: Vec<HeaderPattern>,
    allow_methods: Vec<String>,
    deny_methods: Vec<String>,
    allow_urls: Vec<String>,
    deny_urls: Vec<String>,
    first_field_only: bool,
    basic_auth: Vec<String>,
    header_limits: Vec<(Vec<u8>, u32)>,
    param_limits: Vec<(Vec<u8>, u32)>,
    set_headers: Vec<(Vec<u8>, Vec<u8>)>,
    set_params: Vec<(Vec<u8>, Vec<u8>)>,
    rewrite_urls: Vec<(String, Vec<u8>)>,
    rewrite_headers: Vec<(Vec<u8>, String, Vec<u8>)>,
}

fn regex(pattern: &str) -> PyResult<Regex> {
    Regex::new(pattern).map_err(|e| PyValueError::new_err(format!("{e}")))
}

fn regexes(patterns: &[String]) -> PyResult<Vec<Regex>> {
    patterns.iter().map(|p| regex(p)).collect()
}

fn header_rules(rules: Vec<HeaderPattern>) -> PyResult<Vec<HeaderRule>> {
    rules
        .into_iter()
        .map(|(name, value)| Ok((name, value.map(|v| regex(&v)).transpose()?)))
        .collect()
}

impl TryFrom<EngineOptions> for Options {
    type Error = PyErr;

    fn try_from(o: EngineOptions) -> PyResult<Self> {
        Ok(Options {
            ports: o.ports,
            real_ip_header: o.real_ip_header,
            client_from: o
                .client_from
                .map(|(field, hops)| ClientFrom { field, hops }),
            allow_incomplete: o.allow_incomplete,
            weight: o.weight,
            requests: o.requests,
            responses: o.responses,
            slice_ns: o.slice_ns,
            first_connection: o.first_connection,
            max_connections: o.max_connections,
            max_ended: o.max_ended,
            max_connection_bytes: o.max_connection_bytes,
            max_head_bytes: o.max_head_bytes,
            max_message_bytes: o.max_message_bytes,
            max_buffer_bytes: o.max_buffer_bytes,
            max_pipeline: o.max_pipeline,
            max_held: o.max_held,
            idle_ns: o.idle_ns,
            linger_ns: o.linger_ns,
            reorder_ns: o.reorder_ns,
            hole_ns: o.hole_ns,
            settle_ns: o.settle_ns,
            settle_segments: o.settle_segments,
            filters: Filters {
                allow_headers: header_rules(o.allow_headers)?,
                deny_headers: header_rules(o.deny_headers)?,
                allow_methods: regexes(&o.allow_methods)?,
                deny_methods: regexes(&o.deny_methods)?,
                allow_urls: regexes(&o.allow_urls)?,
                deny_urls: regexes(&o.deny_urls)?,
                first_field_only: o.first_field_only,
            },
            redaction: Redaction {
                headers: o.redact_headers,
                parameters: o.redact_parameters,
            },
            templates: Templates::new(&o.endpoints),
            vxlan: Vxlan {
                ports: o.vxlan_ports,
                vnis: o.vxlan_vnis,
            },
            raw: o.raw,
            protocols: o.protocols,
            plugin_ports: o.plugin_ports,
            tls_keys: o.tls_keys.is_some(),
        })
    }
}

impl TryFrom<Rules> for Modifier {
    type Error = PyErr;

    fn try_from(rules: Rules) -> PyResult<Self> {
        let mut out = Modifier {
            filters: Filters {
                allow_headers: header_rules(rules.allow_headers)?,
                deny_headers: header_rules(rules.deny_headers)?,
                allow_methods: regexes(&rules.allow_methods)?,
                deny_methods: regexes(&rules.deny_methods)?,
                allow_urls: regexes(&rules.allow_urls)?,
                deny_urls: regexes(&rules.deny_urls)?,
                first_field_only: rules.first_field_only,
            },
            basic_auth: regexes(&rules.basic_auth)?,
            header_limits: rules.header_limits,
            param_limits: rules.param_limits,
            set_headers: rules.set_headers,
            set_params: rules.set_params,
            ..Modifier::default()
        };
        for (pattern, with) in rules.rewrite_urls {
            out.rewrite_urls.push((regex(&pattern)?, with));
        }
        for (name, pattern, with) in rules.rewrite_headers {
            out.rewrite_headers.push((name, regex(&pattern)?, with));
        }
        Ok(out)
    }
}
