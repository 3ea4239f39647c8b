//! Records handed to other processes and to disk, and as rows for PostgreSQL.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use penstock_dataplane::copy_rows::{self, Column, Form, Source};
use penstock_dataplane::pack;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffers::with_bytes;
use crate::errors;
use crate::record::{Context, Run};
use crate::records::PyConsumerRecords;

/// What pack() made of records, with these deserializers; ProtocolError for anything else.
#[pyfunction]
#[pyo3(signature = (data, *, key_deserializer = None, value_deserializer = None))]
pub fn unpack_records(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    key_deserializer: Option<Py<PyAny>>,
    value_deserializer: Option<Py<PyAny>>,
) -> PyResult<PyConsumerRecords> {
    let bytes = with_bytes(data, Bytes::copy_from_slice)?;
    let unpacked = py
        .detach(move || pack::unpack(&bytes))
        .map_err(|error| errors::make(py, "ProtocolError", (error.to_string(),)))?;
    let mut contexts: Vec<Arc<Context>> = Vec::new();
    let mut runs = Vec::with_capacity(unpacked.len());
    for packed in unpacked {
        let same = |context: &&Arc<Context>| {
            *context.topic == *packed.topic && context.partition == packed.partition
        };
        let context = if let Some(context) = contexts.iter().find(same) {
            Arc::clone(context)
        } else {
            let clone =
                |function: &Option<Py<PyAny>>| function.as_ref().map(|one| one.clone_ref(py));
            let made = Arc::new(Context::new(
                py,
                &packed.topic,
                packed.partition,
                clone(&key_deserializer),
                clone(&value_deserializer),
            ));
            contexts.push(Arc::clone(&made));
            made
        };
        let end = packed.chunk.len();
        let run = Run {
            context,
            chunk: Arc::new(packed.chunk),
            start: 0,
            end,
            next_offset: packed.next_offset,
        };
        runs.push(Py::new(py, run)?);
    }
    Ok(PyConsumerRecords::new(runs, Arc::default()))
}

/// Records as rows of PostgreSQL's COPY, text format.
#[pyclass(name = "CopyEncoder", module = "penstock._native", frozen)]
pub struct PyCopyEncoder {
    columns: Vec<Column>,
}

#[pymethods]
impl PyCopyEncoder {
    #[new]
    fn new(columns: Vec<(String, String, bool)>) -> PyResult<Self> {
        let columns = columns.into_iter().map(|(source, form, required)| {
            Ok(Column {
                source: source_of(&source)?,
                form: form_of(&form)?,
                required,
            })
        });
        Ok(Self {
            columns: columns.collect::<PyResult<_>>()?,
        })
    }

    /// (blocks of rows, how many rows, [(index, why) of records left out]).
    #[pyo3(signature = (records, *, skip = None))]
    #[expect(clippy::type_complexity, reason = "a tuple is what Python unpacks")]
    fn encode<'py>(
        &self,
        py: Python<'py>,
        records: &PyConsumerRecords,
        skip: Option<HashSet<usize>>,
    ) -> PyResult<(Vec<Bound<'py, PyBytes>>, usize, Vec<(usize, String)>)> {
        let slices = records.slices();
        let columns = &self.columns;
        let rows = py.detach(|| match skip {
            Some(skip) => copy_rows::encode(&slices, columns, |index| skip.contains(&index)),
            None => copy_rows::encode(&slices, columns, |_| false),
        });
        let blocks = rows.blocks.iter().map(|block| PyBytes::new(py, block));
        Ok((blocks.collect(), rows.count, rows.bad))
    }
}

fn source_of(name: &str) -> PyResult<Source> {
    Ok(match name {
        "key" => Source::Key,
        "value" => Source::Value,
        "topic" => Source::Topic,
        "partition" => Source::Partition,
        "offset" => Source::Offset,
        "timestamp" => Source::Timestamp,
        "leader_epoch" => Source::LeaderEpoch,
        "headers" => Source::Headers,
        "index" => Source::Index,
        "tombstone" => Source::Tombstone,
        _ => match name.strip_prefix("value.") {
            Some(path) if !path.is_empty() => {
                Source::Field(path.split('.').map(str::to_owned).collect())
            }
            _ => {
                return Err(PyValueError::new_err(format!(
                    "no source is called {name:?}"
                )));
            }
        },
    })
}

fn form_of(name: &str) -> PyResult<Form> {
    match name {
        "text" => Ok(Form::Text),
        "bytes" => Ok(Form::Bytes),
        "json" => Ok(Form::Json),
        "time" => Ok(Form::Time),
        _ => Err(PyValueError::new_err(format!(
            "no form is called {name:?}; there are text, bytes, json, time"
        ))),
    }
}
