//! `Fetcher`.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use penstock_dataplane::buffer::Failure;
use penstock_dataplane::decode::DecodeOptions;
use penstock_dataplane::fetch::{FetchConfig, Fetcher, Polled, Taken};
use penstock_dataplane::progress::Progress;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit};

use crate::connection::PyConnection;
use crate::errors;
use crate::events::{PyEventQueue, deadline_of, is_over, slice_until};
use crate::record::{Context, Run};
use crate::records::PyConsumerRecords;

/// The fetch positions, the fetch loops and the bounded buffer of one consumer.
#[pyclass(name = "Fetcher", module = "penstock._native", frozen)]
pub struct PyFetcher {
    fetcher: Fetcher,
    key_deserializer: Option<Py<PyAny>>,
    value_deserializer: Option<Py<PyAny>>,
}

#[pymethods]
impl PyFetcher {
    #[new]
    #[pyo3(signature = (
        events, *, client_id, client_rack = "", isolation_level = 0, max_wait_ms = 500, min_bytes = 1,
        max_bytes = 52_428_800, max_partition_bytes = 1_048_576, check_crcs = true, buffer_bytes = 16_777_216,
        max_batch_bytes = 268_435_456, request_timeout_ms = 30_000, key_deserializer = None, value_deserializer = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "one keyword each in Python")]
    fn new(
        events: &PyEventQueue,
        client_id: String,
        client_rack: &str,
        isolation_level: i8,
        max_wait_ms: i32,
        min_bytes: i32,
        max_bytes: i32,
        max_partition_bytes: i32,
        check_crcs: bool,
        buffer_bytes: usize,
        max_batch_bytes: usize,
        request_timeout_ms: u64,
        key_deserializer: Option<Py<PyAny>>,
        value_deserializer: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let config = FetchConfig {
            client_id,
            client_rack: client_rack.into(),
            isolation_level,
            max_wait_ms,
            min_bytes,
            max_bytes,
            max_partition_bytes,
            decode: DecodeOptions {
                check_crcs,
                max_batch_bytes,
            },
            buffer_bytes,
            request_timeout: Duration::from_millis(request_timeout_ms),
        };
        let fetcher = Fetcher::new(config, Arc::clone(&events.queue))?;
        Ok(Self {
            fetcher,
            key_deserializer,
            value_deserializer,
        })
    }

    // ------------------------------------------------ partition table

    /// A new handle, without position or leader.
    fn assign(
        &self,
        py: Python<'_>,
        topic: &str,
        topic_id: &[u8],
        partition: i32,
    ) -> PyResult<u64> {
        self.check(py)?;
        let topic_id = topic_id_of(topic_id)?;
        let deserializer =
            |given: &Option<Py<PyAny>>| given.as_ref().map(|given| given.clone_ref(py));
        let (key, value) = (
            deserializer(&self.key_deserializer),
            deserializer(&self.value_deserializer),
        );
        let context = Context::new(py, topic, partition, key, value);
        let topic = Arc::clone(&context.topic);
        Ok(self
            .fetcher
            .assign(topic, topic_id, partition, Arc::new(context)))
    }

    /// Forget partitions and all that was fetched of them. After this returns, poll() returns nothing of them.
    fn unassign(&self, py: Python<'_>, handles: Vec<u64>) -> PyResult<()> {
        self.check(py)?;
        py.detach(|| self.fetcher.unassign(&handles));
        Ok(())
    }

    fn set_topic_id(&self, py: Python<'_>, handle: u64, topic_id: &[u8]) -> PyResult<()> {
        self.check(py)?;
        self.fetcher.set_topic_id(handle, topic_id_of(topic_id)?);
        Ok(())
    }

    /// Where to fetch from (-1: nowhere for now). Lifts a suspension.
    fn set_leader(
        &self,
        py: Python<'_>,
        handle: u64,
        node_id: i32,
        leader_epoch: i32,
    ) -> PyResult<()> {
        self.check(py)?;
        self.fetcher.set_leader(handle, node_id, leader_epoch);
        Ok(())
    }

    /// Fetch from this follower (KIP-392); -1: from the leader again.
    #[pyo3(
        signature = (handle, node_id, leader_serves_ms = 0),
        text_signature = "($self, handle, node_id, leader_serves_ms=0)",
    )]
    fn set_read_replica(
        &self,
        py: Python<'_>,
        handle: u64,
        node_id: i32,
        leader_serves_ms: u64,
    ) -> PyResult<()> {
        self.check(py)?;
        let leader_serves = Duration::from_millis(leader_serves_ms);
        self.fetcher
            .set_read_replica(handle, node_id, leader_serves);
        Ok(())
    }

    /// Fetch from this offset, in a new epoch, which is returned. offset -1: no position, stop fetching.
    #[pyo3(
        signature = (handle, offset, last_leader_epoch = -1),
        text_signature = "($self, handle, offset, last_leader_epoch=-1)",
    )]
    fn seek(
        &self,
        py: Python<'_>,
        handle: u64,
        offset: i64,
        last_leader_epoch: i32,
    ) -> PyResult<u64> {
        self.check(py)?;
        self.fetcher
            .seek(handle, offset, last_leader_epoch)
            .ok_or_else(|| unknown(handle))
    }

    /// Forget what was fetched beyond end_offset, if anything was, and fetch again from the position, which is returned.
    fn cut(&self, py: Python<'_>, handle: u64, end_offset: i64) -> PyResult<Option<(i64, i32)>> {
        self.check(py)?;
        Ok(self.fetcher.cut(handle, end_offset))
    }

    fn epoch(&self, py: Python<'_>, handle: u64) -> PyResult<u64> {
        self.check(py)?;
        self.fetcher.epoch(handle).ok_or_else(|| unknown(handle))
    }

    /// (offset of the next record that poll() will return, leader epoch of the last one returned or -1), or None.
    fn position(&self, py: Python<'_>, handle: u64) -> PyResult<Option<(i64, i32)>> {
        self.check(py)?;
        Ok(self.fetcher.position(handle))
    }

    fn high_watermark(&self, py: Python<'_>, handle: u64) -> PyResult<i64> {
        self.marks(py, handle)
            .map(|(high_watermark, _, _)| high_watermark)
    }

    fn last_stable_offset(&self, py: Python<'_>, handle: u64) -> PyResult<i64> {
        self.marks(py, handle)
            .map(|(_, last_stable_offset, _)| last_stable_offset)
    }

    fn log_start_offset(&self, py: Python<'_>, handle: u64) -> PyResult<i64> {
        self.marks(py, handle)
            .map(|(_, _, log_start_offset)| log_start_offset)
    }

    /// Per handle: (position, high watermark, last stable offset, log start offset), -1 for what is not known.
    fn places(&self, py: Python<'_>, handles: Vec<u64>) -> PyResult<Vec<(i64, i64, i64, i64)>> {
        self.check(py)?;
        Ok(self.fetcher.places(&handles))
    }

    /// What poll() has handed out of a partition since it was assigned: (records, bytes of keys and values).
    fn partition_stats(&self, py: Python<'_>, handle: u64) -> PyResult<(u64, u64)> {
        self.check(py)?;
        self.fetcher
            .partition_stats(handle)
            .ok_or_else(|| unknown(handle))
    }

    /// Stop returning and fetching; what is buffered is kept, outside the buffer's budget.
    fn pause(&self, py: Python<'_>, handles: Vec<u64>) -> PyResult<()> {
        self.check(py)?;
        self.fetcher.pause(&handles);
        Ok(())
    }

    fn resume(&self, py: Python<'_>, handles: Vec<u64>) -> PyResult<()> {
        self.check(py)?;
        self.fetcher.resume(&handles);
        Ok(())
    }

    /// poll() raises this error once it has returned what was buffered before it; until seek() or unassign().
    fn fail(&self, py: Python<'_>, handle: u64, error: Py<PyAny>) -> PyResult<()> {
        self.check(py)?;
        self.fetcher.fail(handle, Failure::Foreign(Arc::new(error)));
        Ok(())
    }

    // ------------------------------------------------ loops

    /// Run the fetch loop of a node on its connection.
    fn attach(
        &self,
        py: Python<'_>,
        node_id: i32,
        connection: &PyConnection,
        api_version: i16,
    ) -> PyResult<()> {
        self.check(py)?;
        connection.check(py)?;
        let attached = self
            .fetcher
            .attach(node_id, &connection.connection, api_version);
        attached.map_err(PyValueError::new_err)
    }

    fn detach(&self, py: Python<'_>, node_id: i32) -> PyResult<()> {
        self.check(py)?;
        self.fetcher.detach(node_id);
        Ok(())
    }

    // ------------------------------------------------ the user's thread

    /// Up to max_records, oldest fetch first; waits up to timeout_ms for the first. Empty also after wake().
    fn poll(
        &self,
        py: Python<'_>,
        max_records: usize,
        timeout_ms: i64,
    ) -> PyResult<PyConsumerRecords> {
        self.check(py)?;
        self.fetcher.poll_entered();
        let progress = self.fetcher.progress();
        let (mut deadline, mut waiting) = (None, None);
        loop {
            match self.fetcher.try_poll(max_records.max(1)) {
                Polled::Records(taken) => return to_records(py, taken, progress),
                Polled::Failure(context, failure) => return Err(to_error(py, &*context, &failure)),
                Polled::Closed => return Err(errors::closed(py, "this fetcher")),
                Polled::Woken => return to_records(py, Vec::new(), progress),
                Polled::Nothing => {}
            }
            let deadline = *deadline.get_or_insert_with(|| deadline_of(timeout_ms));
            if is_over(deadline) {
                return to_records(py, Vec::new(), progress);
            }
            let left = slice_until(deadline);
            waiting.get_or_insert_with(|| progress.wait());
            // An interrupted wait is one that ends early: the signal's handler runs next.
            let _ = py.detach(|| self.fetcher.wait(left));
            py.check_signals()?;
        }
    }

    /// A descriptor that is readable while poll(n, 0) may return records, raise, or was woken.
    fn fileno(&self, py: Python<'_>) -> PyResult<i32> {
        self.check(py)?;
        Ok(self.fetcher.watch().as_raw_fd())
    }

    /// Make a waiting poll(), or the next one, return at once.
    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        self.check(py)?;
        self.fetcher.wake();
        Ok(())
    }

    /// Milliseconds since poll() was last entered, or since the start.
    fn last_poll_ms(&self) -> u64 {
        self.fetcher.progress().since_poll_ms()
    }

    /// Milliseconds since the user's thread last showed progress; 0 while it waits inside poll().
    fn idle_ms(&self) -> u64 {
        self.fetcher.progress().idle_ms()
    }

    /// Count as progress; any thread.
    fn note_progress(&self) {
        self.fetcher.progress().note();
    }

    fn buffered_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.check(py)?;
        Ok(self.fetcher.buffered().0)
    }

    fn buffered_records(&self, py: Python<'_>) -> PyResult<usize> {
        self.check(py)?;
        Ok(self.fetcher.buffered().1)
    }

    /// Per node that was ever fetched from: (requests sent, bytes of record batches that came).
    fn node_stats(&self, py: Python<'_>) -> PyResult<HashMap<i32, (u64, u64)>> {
        self.check(py)?;
        let all = self.fetcher.node_stats().into_iter();
        Ok(all
            .map(|(id, fetches, bytes)| (id, (fetches, bytes)))
            .collect())
    }

    /// Counters since the start.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for (name, count) in self.fetcher.stats().all() {
            stats.set_item(name, count)?;
        }
        Ok(stats)
    }

    /// For the collector of garbage: a deserializer is often a method of the object that has the consumer. The references that
    /// partitions hold go with close(); until then the collector takes them for someone else's.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.key_deserializer)?;
        visit.call(&self.value_deserializer)
    }

    /// End all loops and forget what is buffered; idempotent. poll() raises ClosedError afterwards.
    fn close(&self, py: Python<'_>) {
        if self.fetcher.process_id() == std::process::id() {
            py.detach(|| self.fetcher.close());
        }
    }
}

impl PyFetcher {
    pub fn progress(&self) -> &Arc<Progress> {
        self.fetcher.progress()
    }

    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        errors::check_process(py, self.fetcher.process_id(), "this fetcher")
    }

    fn marks(&self, py: Python<'_>, handle: u64) -> PyResult<(i64, i64, i64)> {
        self.check(py)?;
        self.fetcher.marks(handle).ok_or_else(|| unknown(handle))
    }
}

fn unknown(handle: u64) -> PyErr {
    PyKeyError::new_err(format!(
        "no partition has the handle {handle}; it was unassigned"
    ))
}

fn topic_id_of(bytes: &[u8]) -> PyResult<[u8; 16]> {
    let wrong = |_| PyValueError::new_err(format!("a topic id has 16 bytes, not {}", bytes.len()));
    bytes.try_into().map_err(wrong)
}

fn context_of(context: &(dyn Any + Send + Sync)) -> PyResult<&Context> {
    context
        .downcast_ref()
        .ok_or_else(|| errors::fault("a partition without its context"))
}

fn to_records(
    py: Python<'_>,
    taken: Vec<Taken>,
    progress: &Arc<Progress>,
) -> PyResult<PyConsumerRecords> {
    let runs = taken.into_iter().map(|taken| {
        let Taken {
            context,
            chunk,
            start,
            end,
            next_offset,
            ..
        } = taken;
        let context = context.downcast::<Context>();
        let context = context.map_err(|_| errors::fault("a partition without its context"))?;
        let run = Run {
            context,
            chunk,
            start,
            end,
            next_offset,
        };
        Py::new(py, run)
    });
    let runs = runs.collect::<PyResult<_>>()?;
    Ok(PyConsumerRecords::new(runs, Arc::clone(progress)))
}

fn to_error(py: Python<'_>, context: &(dyn Any + Send + Sync), failure: &Failure) -> PyErr {
    match failure {
        Failure::Decode { error, past } => match context_of(context) {
            Ok(context) => errors::of_decode(py, error, *past, &context.topic, context.partition),
            Err(fault) => fault,
        },
        Failure::Foreign(error) => match error.downcast_ref::<Py<PyAny>>() {
            Some(error) => errors::again(py, error),
            None => errors::fault("a failure that is no error"),
        },
    }
}
