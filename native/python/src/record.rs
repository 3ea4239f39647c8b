//! `ConsumerRecord`: one record, made when it is iterated over, parsed and copied when it is read.

use std::sync::{Arc, OnceLock};

use penstock_dataplane::arrow_columns::Slice;
use penstock_dataplane::pack;
use penstock_dataplane::record::{Chunk, TimestampType};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyMemoryView, PyString};

use crate::buffers::SharedBytes;
use crate::errors;

/// What all records of a partition have in common.
pub struct Context {
    pub topic: Arc<str>,
    pub py_topic: Py<PyString>,
    pub partition: i32,
    pub key_deserializer: Option<Py<PyAny>>,
    pub value_deserializer: Option<Py<PyAny>>,
    topic_partition: PyOnceLock<Py<PyAny>>,
}

impl Context {
    pub fn new(
        py: Python<'_>,
        topic: &str,
        partition: i32,
        key_deserializer: Option<Py<PyAny>>,
        value_deserializer: Option<Py<PyAny>>,
    ) -> Self {
        Self {
            topic: Arc::from(topic),
            py_topic: PyString::new(py, topic).unbind(),
            partition,
            key_deserializer,
            value_deserializer,
            topic_partition: PyOnceLock::new(),
        }
    }

    /// A `TopicPartition`, the same one each time.
    pub fn topic_partition<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let made = self.topic_partition.get_or_try_init(py, || {
            let class = CLASS.get_or_try_init(py, || {
                py.import("penstock.types")?
                    .getattr("TopicPartition")
                    .map(Bound::unbind)
            })?;
            class.call1(py, (&self.py_topic, self.partition))
        })?;
        Ok(made.bind(py).clone())
    }
}

/// Neighbouring records of one chunk, in one poll. A Python object, so that each record holds it by Python's own count, which is
/// no atomic operation where there is a GIL.
#[pyclass(name = "_Run", module = "penstock._native", frozen)]
pub struct Run {
    pub context: Arc<Context>,
    pub chunk: Arc<Chunk>,
    pub start: usize,
    pub end: usize,
    /// The partition's position after these records.
    pub next_offset: i64,
}

impl Run {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    pub fn slice(&self) -> Slice {
        Slice {
            topic: Arc::clone(&self.context.topic),
            partition: self.context.partition,
            chunk: Arc::clone(&self.chunk),
            start: self.start,
            end: self.end,
        }
    }

    /// The records `from..to`, counted from this run's start.
    pub fn part(&self, from: usize, to: usize) -> Self {
        let (start, end) = (self.start + from, self.start + to);
        let next_offset = match end {
            _ if end == self.end => self.next_offset,
            _ => self.chunk.offset(end.saturating_sub(1)) + 1,
        };
        let (context, chunk) = (Arc::clone(&self.context), Arc::clone(&self.chunk));
        Self {
            context,
            chunk,
            start,
            end,
            next_offset,
        }
    }
}

/// What a deserializer made of the bytes, or the exception it raised: either way it is called once.
enum Read {
    Value(Py<PyAny>),
    Failure(Py<PyAny>),
}

#[derive(Clone, Copy)]
enum Field {
    Key,
    Value,
}

/// One record. key and value are deserialized when first read; headers and raw bytes are copied when read.
#[pyclass(name = "ConsumerRecord", module = "penstock._native", frozen)]
pub struct PyConsumerRecord {
    run: Py<Run>,
    index: u32,
    /// Only with a deserializer: most records live for a moment, and a small object is made and freed sooner.
    cache: OnceLock<Box<Cache>>,
}

/// What the deserializers made of a record.
#[derive(Default)]
struct Cache {
    key: OnceLock<Read>,
    value: OnceLock<Read>,
}

impl PyConsumerRecord {
    /// `index` counts from the chunk's start.
    #[inline]
    pub fn new(run: Py<Run>, index: usize) -> Self {
        Self {
            run,
            // A chunk's bytes, and so its records, count in 32 bits.
            index: index as u32,
            cache: OnceLock::new(),
        }
    }

    #[inline]
    fn run(&self) -> &Run {
        self.run.get()
    }

    #[inline]
    fn index(&self) -> usize {
        self.index as usize
    }

    #[inline]
    fn raw(&self, field: Field) -> Option<&[u8]> {
        match field {
            Field::Key => self.run().chunk.key(self.index()),
            Field::Value => self.run().chunk.value(self.index()),
        }
    }

    #[inline]
    fn read<'py>(&self, py: Python<'py>, field: Field) -> PyResult<Bound<'py, PyAny>> {
        let Some(bytes) = self.raw(field) else {
            return Ok(py.None().into_bound(py));
        };
        let context = &self.run().context;
        let deserializer = match field {
            Field::Key => &context.key_deserializer,
            Field::Value => &context.value_deserializer,
        };
        match deserializer {
            None => Ok(PyBytes::new(py, bytes).into_any()),
            Some(deserializer) => self.deserialize(py, field, bytes, deserializer.bind(py)),
        }
    }

    /// The lock is not held while Python runs: a deserializer that gives the GIL away must not block whoever reads the
    /// same record meanwhile. Two that do may both call it; the first result stays.
    fn deserialize<'py>(
        &self,
        py: Python<'py>,
        field: Field,
        bytes: &[u8],
        deserializer: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let cache = self.cache.get_or_init(Box::default);
        let cell = match field {
            Field::Key => &cache.key,
            Field::Value => &cache.value,
        };
        if cell.get().is_none() {
            let read = match deserializer.call1((PyBytes::new(py, bytes),)) {
                Ok(value) => Read::Value(value.unbind()),
                Err(error) if error.is_instance_of::<PyException>(py) => {
                    Read::Failure(error.into_value(py).into_any())
                }
                // Ctrl-C, SystemExit: not the record's fault.
                Err(error) => return Err(error),
            };
            let _ = cell.set(read);
        }
        match cell.get() {
            Some(Read::Value(value)) => Ok(value.bind(py).clone()),
            Some(Read::Failure(cause)) => {
                Err(self.deserialization_error(py, field, cause.bind(py)))
            }
            None => Err(errors::fault(
                "a record's cache is empty after it was filled",
            )),
        }
    }

    #[cold]
    fn deserialization_error(
        &self,
        py: Python<'_>,
        field: Field,
        cause: &Bound<'_, PyAny>,
    ) -> PyErr {
        let name = match field {
            Field::Key => "key",
            Field::Value => "value",
        };
        let (topic, partition) = (&*self.run().context.topic, self.run().context.partition);
        let offset = self.run().chunk.offset(self.index());
        let what = cause
            .repr()
            .map(|repr| repr.to_string())
            .unwrap_or_default();
        let message = format!(
            "{topic}-{partition} at offset {offset}: the {name}.deserializer raised {what}; raw_key and raw_value have \
             the bytes"
        );
        let raw = |field| self.raw(field).map(|bytes| PyBytes::new(py, bytes));
        let arguments = (
            message,
            topic,
            partition,
            offset,
            name,
            raw(Field::Key),
            raw(Field::Value),
        );
        let error = errors::make(py, "DeserializationError", arguments);
        error.set_cause(py, Some(PyErr::from_value(cause.clone())));
        error
    }
}

#[pymethods]
impl PyConsumerRecord {
    /// This record as bytes, for unpack_records() in another process or later.
    fn pack<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let at = self.index() - self.run().start;
        let one = self.run().part(at, at + 1);
        let packed = pack::pack(&[(one.slice(), one.next_offset)]);
        let packed =
            packed.map_err(|error| errors::make(py, "ProtocolError", (error.to_string(),)))?;
        Ok(PyBytes::new(py, &packed))
    }

    #[getter]
    fn topic(&self, py: Python<'_>) -> Py<PyString> {
        self.run().context.py_topic.clone_ref(py)
    }

    #[getter]
    fn partition(&self) -> i32 {
        self.run().context.partition
    }

    #[getter]
    fn offset(&self) -> i64 {
        self.run().chunk.offset(self.index())
    }

    /// Milliseconds since 1970; -1 where the record has none.
    #[getter]
    fn timestamp(&self) -> i64 {
        self.run().chunk.timestamp(self.index())
    }

    #[getter]
    fn timestamp_type<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static MEMBERS: PyOnceLock<[Py<PyAny>; 3]> = PyOnceLock::new();
        let [none, create, log_append] = MEMBERS.get_or_try_init(py, || {
            let class = py.import("penstock.types")?.getattr("TimestampType")?;
            let member = |number: i32| class.call1((number,)).map(Bound::unbind);
            Ok::<_, PyErr>([member(-1)?, member(0)?, member(1)?])
        })?;
        let member = match self.run().chunk.timestamp_type(self.index()) {
            TimestampType::None => none,
            TimestampType::Create => create,
            TimestampType::LogAppend => log_append,
        };
        Ok(member.bind(py).clone())
    }

    #[getter]
    fn leader_epoch(&self) -> i32 {
        self.run().chunk.leader_epoch(self.index())
    }

    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, Field::Key)
    }

    #[getter]
    fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.read(py, Field::Value)
    }

    /// (key, value or None) of each header. Keys are UTF-8 by the protocol; what is not shows as U+FFFD.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for (key, value) in self.run().chunk.headers(self.index()) {
            let value = value.map(|value| PyBytes::new(py, value));
            list.append((String::from_utf8_lossy(key), value))?;
        }
        Ok(list)
    }

    #[getter]
    fn raw_key<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.raw(Field::Key).map(|bytes| PyBytes::new(py, bytes))
    }

    #[getter]
    fn raw_value<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.raw(Field::Value).map(|bytes| PyBytes::new(py, bytes))
    }

    #[getter]
    fn topic_partition<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.run().context.topic_partition(py)
    }

    /// Without a copy; keeps the fetched bytes around it alive.
    fn raw_key_view<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyMemoryView>>> {
        let shared = self.run().chunk.shared_key(self.index());
        shared.map(|bytes| SharedBytes::view(py, bytes)).transpose()
    }

    /// Without a copy; keeps the fetched bytes around it alive.
    fn raw_value_view<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyMemoryView>>> {
        let shared = self.run().chunk.shared_value(self.index());
        shared.map(|bytes| SharedBytes::view(py, bytes)).transpose()
    }

    fn __repr__(&self) -> String {
        let context = &self.run().context;
        format!(
            "<ConsumerRecord {}-{} offset={} key={} value={}>",
            context.topic,
            context.partition,
            self.offset(),
            shown(self.raw(Field::Key)),
            shown(self.raw(Field::Value)),
        )
    }
}

/// As Python shows bytes, the first of them.
fn shown(bytes: Option<&[u8]>) -> String {
    const SHOWN_BYTES: usize = 40;
    let Some(bytes) = bytes else {
        return "None".into();
    };
    match bytes.get(..SHOWN_BYTES) {
        Some(first) => format!("b\"{}\"... ({} bytes)", first.escape_ascii(), bytes.len()),
        None => format!("b\"{}\"", bytes.escape_ascii()),
    }
}
