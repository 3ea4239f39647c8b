//! Batches outside of fetching: for the producer, tests and tools.

use std::sync::Arc;

use bytes::Bytes;
use penstock_dataplane::compression::Compression;
use penstock_dataplane::decode::{DecodeOptions, Decoder};
use penstock_dataplane::encode::{BatchBuilder, EncodeError, Producer};
use penstock_dataplane::fetch::offset_past;
use penstock_dataplane::{crc, murmur2};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PySequence};

use crate::buffers::with_bytes;
use crate::errors;
use crate::record::{Context, Run};
use crate::records::PyConsumerRecords;

const CHUNK_BYTES: usize = 1 << 20;

/// The records of a partition's raw record set (v0, v1 or v2) from `offset` on. Errors as in Fetcher.poll().
#[pyfunction]
#[pyo3(signature = (data, *, topic = "", partition = 0, offset = 0, check_crcs = true, max_batch_bytes = 268_435_456))]
pub fn decode_batches(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    topic: &str,
    partition: i32,
    offset: i64,
    check_crcs: bool,
    max_batch_bytes: usize,
) -> PyResult<PyConsumerRecords> {
    let bytes = with_bytes(data, Bytes::copy_from_slice)?;
    let context = Arc::new(Context::new(py, topic, partition, None, None));
    let options = DecodeOptions {
        check_crcs,
        max_batch_bytes,
    };
    let set = bytes.clone();
    let decoded = py.detach(move || {
        let mut decoder = Decoder::new(set, offset, &options, None);
        let mut chunks = Vec::new();
        loop {
            match decoder.next_chunk(CHUNK_BYTES) {
                Ok(Some(chunk)) => chunks.push((Arc::new(chunk), decoder.next_offset())),
                Ok(None) => return Ok(chunks),
                Err(error) => return Err((error, decoder.remaining_bytes())),
            }
        }
    });
    let chunks = decoded.map_err(|(error, remaining)| {
        errors::of_decode(py, &error, offset_past(&bytes, remaining), topic, partition)
    })?;
    let runs = chunks.into_iter().map(|(chunk, next_offset)| {
        let (context, end) = (Arc::clone(&context), chunk.len());
        let run = Run {
            context,
            chunk,
            start: 0,
            end,
            next_offset,
        };
        Py::new(py, run)
    });
    let runs = runs.collect::<PyResult<_>>()?;
    Ok(PyConsumerRecords::new(runs, Arc::default()))
}

/// One v2 record batch in the making. Not thread-safe.
#[pyclass(name = "BatchBuilder", module = "penstock._native")]
pub struct PyBatchBuilder {
    builder: BatchBuilder,
}

#[pymethods]
impl PyBatchBuilder {
    #[new]
    #[pyo3(signature = (compression = "none", level = None))]
    fn new(compression: &str, level: Option<i32>) -> PyResult<Self> {
        let codec = Compression::of_name(compression).ok_or_else(|| {
            let names = Compression::ALL.map(Compression::name).join(", ");
            PyValueError::new_err(format!(
                "no compression is called {compression:?}; there are {names}"
            ))
        })?;
        Ok(Self {
            builder: BatchBuilder::new(codec, level),
        })
    }

    /// Add a record; returns the batch's size in bytes so far, before compression.
    #[pyo3(signature = (timestamp_ms, key, value, headers = None))]
    fn append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&Bound<'_, PyAny>>,
        value: Option<&Bound<'_, PyAny>>,
        headers: Option<&Bound<'_, PySequence>>,
    ) -> PyResult<usize> {
        let owned = headers.map(owned_headers).transpose()?.unwrap_or_default();
        let headers: Vec<_> = owned
            .iter()
            .map(|(key, value)| (key.as_bytes(), value.as_deref()))
            .collect();
        let builder = &mut self.builder;
        let appended = with_optional(key, |key| {
            with_optional(value, |value| {
                builder.append(timestamp_ms, key, value, &headers)
            })
        })??;
        appended.map_err(encode_error)
    }

    fn __len__(&self) -> usize {
        self.builder.len()
    }

    #[getter]
    fn size_bytes(&self) -> usize {
        self.builder.size_bytes()
    }

    /// The whole batch, compressed, with its CRC; base offset 0, ready for a Produce request. The builder stays usable
    /// for a retry.
    #[pyo3(
        signature = (*, producer_id = -1, producer_epoch = -1, base_sequence = -1, transactional = false),
        text_signature = "($self, *, producer_id=-1, producer_epoch=-1, base_sequence=-1, transactional=False)",
    )]
    fn build<'py>(
        &self,
        py: Python<'py>,
        producer_id: i64,
        producer_epoch: i16,
        base_sequence: i32,
        transactional: bool,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let producer = Producer {
            id: producer_id,
            epoch: producer_epoch,
            base_sequence,
            transactional,
        };
        let built = py
            .detach(|| self.builder.build(&producer))
            .map_err(encode_error)?;
        Ok(PyBytes::new(py, &built))
    }
}

fn owned_headers(headers: &Bound<'_, PySequence>) -> PyResult<Vec<(String, Option<Vec<u8>>)>> {
    let pairs = headers.try_iter()?.map(|header| {
        let (key, value): (String, Option<Bound<'_, PyAny>>) = header?.extract()?;
        let value = value
            .map(|value| with_bytes(&value, <[u8]>::to_vec))
            .transpose()?;
        Ok((key, value))
    });
    pairs.collect()
}

fn with_optional<R>(
    object: Option<&Bound<'_, PyAny>>,
    function: impl FnOnce(Option<&[u8]>) -> R,
) -> PyResult<R> {
    match object {
        None => Ok(function(None)),
        Some(object) => with_bytes(object, |bytes| function(Some(bytes))),
    }
}

fn encode_error(error: EncodeError) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// The partition that Java's default partitioner gives this key.
#[pyfunction]
pub fn murmur2_partition(key: &Bound<'_, PyAny>, partition_count: i32) -> PyResult<i32> {
    with_bytes(key, |key| murmur2::partition(key, partition_count))?
        .ok_or_else(|| PyValueError::new_err(format!("a topic of {partition_count} partitions")))
}

/// CRC-32C (Castagnoli).
#[pyfunction]
pub fn crc32c(data: &Bound<'_, PyAny>) -> PyResult<u32> {
    with_bytes(data, crc::crc32c)
}
