//! `ConsumerRecords`: what one poll returned.

use std::sync::Arc;

use penstock_dataplane::arrow_columns::Slice;
use penstock_dataplane::pack;
use penstock_dataplane::progress::Progress;
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule, PyDict, PyList, PySlice};

use crate::arrow;
use crate::errors;
use crate::record::{PyConsumerRecord, Run};

/// What one poll() returned: a sequence, and an Arrow stream (PyCapsule protocol).
///
/// It has all methods of a sequence, but is not registered as a `collections.abc.Sequence`: Polars would take it for a
/// list of Python objects then, before it looks for an Arrow stream.
#[pyclass(
    name = "ConsumerRecords",
    module = "penstock._native",
    frozen,
    sequence
)]
pub struct PyConsumerRecords {
    runs: Vec<Py<Run>>,
    /// How many records there are up to the end of each run.
    ends: Vec<usize>,
    /// Moved by whoever takes something out.
    progress: Arc<Progress>,
}

impl PyConsumerRecords {
    pub fn new(runs: Vec<Py<Run>>, progress: Arc<Progress>) -> Self {
        let mut total = 0;
        let ends = runs
            .iter()
            .map(|run| {
                total += run.get().len();
                total
            })
            .collect();
        Self {
            runs,
            ends,
            progress,
        }
    }

    /// Some of these records.
    fn some(&self, runs: Vec<Py<Run>>) -> Self {
        self.progress.took();
        Self::new(runs, Arc::clone(&self.progress))
    }

    fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The run of a record, and the record's place in it.
    fn locate(&self, index: usize) -> Option<(&Py<Run>, usize)> {
        let at = self.ends.partition_point(|&end| end <= index);
        let run = self.runs.get(at)?;
        let before = self.ends.get(at)? - run.get().len();
        Some((run, index - before))
    }

    fn range(&self, py: Python<'_>, start: usize, stop: usize) -> PyResult<Vec<Py<Run>>> {
        let mut before = 0;
        let mut parts = Vec::new();
        for (run, &end) in self.runs.iter().zip(&self.ends) {
            let (from, to) = (start.max(before), stop.min(end));
            if from < to {
                parts.push(Py::new(py, run.get().part(from - before, to - before))?);
            }
            before = end;
        }
        Ok(parts)
    }

    fn slice(&self, slice: &Bound<'_, PySlice>) -> PyResult<Self> {
        let py = slice.py();
        let indices = slice.indices(isize::try_from(self.len())?)?;
        let index_at = |number: usize| {
            usize::try_from(indices.start + number as isize * indices.step).unwrap_or(usize::MAX)
        };
        if indices.step == 1 {
            let start = index_at(0);
            let range = self.range(py, start, start + indices.slicelength)?;
            return Ok(self.some(range));
        }
        let picked = (0..indices.slicelength).filter_map(|number| {
            let (run, at) = self.locate(index_at(number))?;
            Some(Py::new(py, run.get().part(at, at + 1)))
        });
        Ok(self.some(picked.collect::<PyResult<_>>()?))
    }

    pub fn slices(&self) -> Vec<Slice> {
        self.runs.iter().map(|run| run.get().slice()).collect()
    }
}

#[pymethods]
impl PyConsumerRecords {
    /// The partitions that have records here, in order of appearance.
    #[getter]
    fn partitions<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let seen = PyDict::new(py);
        for run in self.runs.iter().map(Py::get) {
            seen.set_item(run.context.topic_partition(py)?, py.None())?;
        }
        Ok(seen.keys())
    }

    /// Those of one partition.
    fn records(&self, py: Python<'_>, topic_partition: (String, i32)) -> Self {
        let (topic, partition) = topic_partition;
        let wanted = |run: &&Py<Run>| {
            let context = &run.get().context;
            context.partition == partition && *context.topic == *topic
        };
        let runs = self.runs.iter().filter(wanted);
        self.some(runs.map(|run| run.clone_ref(py)).collect())
    }

    /// All records of these, in their order, over the same memory.
    #[staticmethod]
    fn concat(py: Python<'_>, parts: Vec<PyRef<'_, Self>>) -> Self {
        let progress = parts.first().map(|part| Arc::clone(&part.progress));
        let runs = parts.iter().flat_map(|part| &part.runs);
        Self::new(
            runs.map(|run| run.clone_ref(py)).collect(),
            progress.unwrap_or_default(),
        )
    }

    /// These records as bytes, for unpack_records() in another process or later.
    fn pack<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let runs = self.runs.iter().map(Py::get);
        let slices: Vec<_> = runs.map(|run| (run.slice(), run.next_offset)).collect();
        let packed = py.detach(|| pack::pack(&slices));
        let packed =
            packed.map_err(|error| errors::make(py, "ProtocolError", (error.to_string(),)))?;
        Ok(PyBytes::new(py, &packed))
    }

    /// Per partition, the position after the last record here: what commit() would store.
    fn next_offsets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let offsets = PyDict::new(py);
        for run in self.runs.iter().map(Py::get) {
            offsets.set_item(run.context.topic_partition(py)?, run.next_offset)?;
        }
        Ok(offsets)
    }

    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes of all keys and values.
    fn size_bytes(&self) -> u64 {
        let spans = self
            .runs
            .iter()
            .map(Py::get)
            .flat_map(|run| run.chunk.spans.get(run.start..run.end));
        let lengths = spans.flatten().map(|span| {
            u64::from(span.key_len.max(0).unsigned_abs())
                + u64::from(span.value_len.max(0).unsigned_abs())
        });
        lengths.sum()
    }

    /// A pyarrow.Table (pyarrow must be installed). Others read the object itself, through __arrow_c_stream__.
    fn to_arrow<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("pyarrow")?.call_method1("table", (slf,))
    }

    #[pyo3(signature = (requested_schema = None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        self.progress.took();
        arrow::stream(py, self.slices(), requested_schema)
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        arrow::schema(py)
    }

    fn __len__(&self) -> usize {
        self.len()
    }

    fn __bool__(&self) -> bool {
        !self.runs.is_empty()
    }

    fn __iter__(slf: Bound<'_, Self>) -> PyRecordIterator {
        let runs = &slf.get().runs;
        let first = runs.first().map(|run| run.clone_ref(slf.py()));
        let index = first.as_ref().map_or(0, |run| run.get().start);
        PyRecordIterator {
            run: first,
            index,
            next_run: 1,
            records: slf.unbind(),
        }
    }

    fn __getitem__<'py>(&self, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = index.py();
        if let Ok(slice) = index.cast::<PySlice>() {
            return Ok(Bound::new(py, self.slice(slice)?)?.into_any());
        }
        let asked: isize = index.extract()?;
        let length = self.len();
        let index = if asked < 0 {
            length.checked_sub(asked.unsigned_abs())
        } else {
            Some(asked.unsigned_abs())
        };
        let Some((run, at)) = index.and_then(|index| self.locate(index)) else {
            return Err(PyIndexError::new_err(format!("record {asked} of {length}")));
        };
        self.progress.took();
        let record = PyConsumerRecord::new(run.clone_ref(py), run.get().start + at);
        Ok(Bound::new(py, record)?.into_any())
    }

    /// As of any sequence. Records are compared by identity, and made anew by each access.
    #[pyo3(signature = (value, start = 0, stop = None))]
    fn index<'py>(
        slf: &Bound<'py, Self>,
        value: &Bound<'py, PyAny>,
        start: isize,
        stop: Option<isize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mixin = slf.py().import("collections.abc")?.getattr("Sequence")?;
        mixin.call_method1("index", (slf, value, start, stop))
    }

    /// As of any sequence; see index().
    fn count<'py>(
        slf: &Bound<'py, Self>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.py()
            .import("operator")?
            .call_method1("countOf", (slf, value))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let partitions = self.partitions(py)?;
        let count = self.len();
        let names = partitions
            .iter()
            .map(|partition| partition.str().map(|name| name.to_string()));
        let names = names.collect::<PyResult<Vec<_>>>()?;
        Ok(format!(
            "<ConsumerRecords: {count} records of [{}]>",
            names.join(", ")
        ))
    }
}

/// Walks through the runs. The hot path of `for record in records`.
#[pyclass(name = "_RecordIterator", module = "penstock._native")]
pub struct PyRecordIterator {
    run: Option<Py<Run>>,
    index: usize,
    next_run: usize,
    records: Py<PyConsumerRecords>,
}

#[pymethods]
impl PyRecordIterator {
    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&mut self, py: Python<'_>) -> Option<PyConsumerRecord> {
        let run = self.run.as_ref()?;
        let record = PyConsumerRecord::new(run.clone_ref(py), self.index);
        let records = self.records.get();
        records.progress.took();
        self.index += 1;
        if self.index == run.get().end {
            // Runs are never empty.
            let runs = &records.runs;
            self.run = runs.get(self.next_run).map(|run| run.clone_ref(py));
            self.next_run += 1;
            self.index = self.run.as_ref().map_or(0, |run| run.get().start);
        }
        Some(record)
    }
}
