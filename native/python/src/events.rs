//! `EventQueue`.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_dataplane::events::{Event, EventQueue};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::errors;

pub const EVENT_CONNECTED: i64 = 1;
pub const EVENT_RESPONSE: i64 = 2;
pub const EVENT_CLOSED: i64 = 3;
pub const EVENT_FETCH_ERROR: i64 = 4;
pub const EVENT_FETCH_NODE_ERROR: i64 = 5;
pub const EVENT_HEARTBEAT: i64 = 6;
pub const EVENT_HEARTBEATS_STOPPED: i64 = 7;
pub const EVENT_PREFERRED_REPLICA: i64 = 8;
pub const EVENT_DIVERGING: i64 = 9;

/// The one place where native threads speak to an engine. Any thread may call wake(); one thread waits.
#[pyclass(name = "EventQueue", module = "penstock._native", frozen)]
pub struct PyEventQueue {
    pub queue: Arc<EventQueue>,
    process_id: u32,
}

#[pymethods]
impl PyEventQueue {
    #[new]
    fn new() -> PyResult<Self> {
        Ok(Self {
            queue: Arc::new(EventQueue::new()?),
            process_id: std::process::id(),
        })
    }

    /// All pending events, at once if there are some or wake() was called since, else after at most timeout_ms
    /// (-1: no limit).
    fn wait<'py>(&self, py: Python<'py>, timeout_ms: i64) -> PyResult<Bound<'py, PyList>> {
        errors::check_process(py, self.process_id, "this event queue")?;
        let mut events = self.queue.take();
        if events.0.is_empty() && !events.1 && timeout_ms != 0 {
            events.0 = self.wait_in_slices(py, timeout_ms)?;
        }
        let list = PyList::empty(py);
        for event in events.0 {
            list.append(to_python(py, event)?)?;
        }
        Ok(list)
    }

    fn wake(&self) {
        if self.process_id == std::process::id() {
            self.queue.wake();
        }
    }

    /// A descriptor that is readable while wait() would return at once: for a selector or an event loop.
    fn fileno(&self) -> i32 {
        self.queue.as_fd().as_raw_fd()
    }
}

impl PyEventQueue {
    fn wait_in_slices(
        &self,
        py: Python<'_>,
        timeout_ms: i64,
    ) -> PyResult<std::collections::VecDeque<Event>> {
        let deadline = deadline_of(timeout_ms);
        loop {
            let left = slice_until(deadline);
            let queue = &self.queue;
            let events = py.detach(|| queue.wait(left)).unwrap_or_default();
            // What was taken is returned first: a handler that raises would lose it.
            if let Some(events) = events {
                return Ok(events);
            }
            py.check_signals()?;
            if is_over(deadline) {
                return Ok(Default::default());
            }
        }
    }
}

/// None: no limit.
pub fn deadline_of(timeout_ms: i64) -> Option<Instant> {
    let timeout = Duration::from_millis(u64::try_from(timeout_ms).ok()?);
    Instant::now().checked_add(timeout)
}

pub fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// A signal interrupts poll(2) only in the thread that the system delivers it to, which need not be this one: a wait is
/// cut into slices, after each of which Python's signal handlers get their turn.
const SIGNAL_SLICE: Duration = Duration::from_millis(200);

pub fn slice_until(deadline: Option<Instant>) -> Duration {
    deadline.map_or(SIGNAL_SLICE, |deadline| {
        deadline
            .saturating_duration_since(Instant::now())
            .min(SIGNAL_SLICE)
    })
}

fn to_python(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyAny>> {
    let event = match event {
        Event::Connected {
            connection,
            address,
        } => (EVENT_CONNECTED, connection, 0, address)
            .into_pyobject(py)?
            .into_any(),
        Event::Response {
            connection,
            correlation_id,
            frame,
        } => {
            let frame = PyBytes::new(py, &frame);
            (EVENT_RESPONSE, connection, correlation_id, frame)
                .into_pyobject(py)?
                .into_any()
        }
        Event::Heartbeat {
            connection,
            generation,
            frame,
        } => {
            let frame = PyBytes::new(py, &frame);
            (EVENT_HEARTBEAT, connection, generation, frame)
                .into_pyobject(py)?
                .into_any()
        }
        Event::HeartbeatsStopped {
            connection,
            generation,
            idle_ms,
        } => (EVENT_HEARTBEATS_STOPPED, connection, generation, idle_ms)
            .into_pyobject(py)?
            .into_any(),
        Event::Closed { connection, reason } => (EVENT_CLOSED, connection, 0, reason)
            .into_pyobject(py)?
            .into_any(),
        Event::FetchError { .. } | Event::PreferredReplica { .. } | Event::Diverging { .. } => {
            partition_to_python(py, event)?
        }
        Event::FetchNodeError {
            connection,
            error_code,
        } => (EVENT_FETCH_NODE_ERROR, connection, error_code, py.None())
            .into_pyobject(py)?
            .into_any(),
    };
    Ok(event)
}

/// Those of one partition: (kind, handle, epoch, what happened).
fn partition_to_python(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyAny>> {
    let event = match event {
        Event::FetchError {
            handle,
            epoch,
            error_code,
            fetch_offset,
            leader_id,
            leader_epoch,
            node_id,
        } => {
            let error = (error_code, fetch_offset, leader_id, leader_epoch, node_id);
            (EVENT_FETCH_ERROR, handle, epoch, error)
                .into_pyobject(py)?
                .into_any()
        }
        Event::PreferredReplica {
            handle,
            epoch,
            node_id,
        } => (EVENT_PREFERRED_REPLICA, handle, epoch, node_id)
            .into_pyobject(py)?
            .into_any(),
        Event::Diverging {
            handle,
            epoch,
            diverging_epoch,
            end_offset,
        } => {
            let place = (diverging_epoch, end_offset);
            (EVENT_DIVERGING, handle, epoch, place)
                .into_pyobject(py)?
                .into_any()
        }
        other => return Err(errors::fault(format!("{other:?} is not of a partition"))),
    };
    Ok(event)
}
