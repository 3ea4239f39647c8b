//! `Connection`.

use std::sync::Arc;
use std::time::Duration;

use penstock_dataplane::connection::{Connection, Settings};
use penstock_dataplane::heartbeat::Heartbeats;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffers::with_bytes;
use crate::errors;
use crate::events::PyEventQueue;
use crate::fetcher::PyFetcher;

/// One TCP connection and its native thread, which connects, writes queued requests and reads frames.
#[pyclass(name = "Connection", module = "penstock._native", frozen)]
pub struct PyConnection {
    pub connection: Connection,
}

#[pymethods]
impl PyConnection {
    #[new]
    #[pyo3(signature = (
        events, connection_id, host, port, *, connect_timeout_ms = 10_000, max_frame_bytes = 1_073_741_824,
        send_buffer_bytes = 131_072, receive_buffer_bytes = 65_536,
    ))]
    #[expect(clippy::too_many_arguments, reason = "one keyword each in Python")]
    fn new(
        events: &PyEventQueue,
        connection_id: i64,
        host: String,
        port: u16,
        connect_timeout_ms: u64,
        max_frame_bytes: usize,
        send_buffer_bytes: i64,
        receive_buffer_bytes: i64,
    ) -> PyResult<Self> {
        let settings = Settings {
            host,
            port,
            connect_timeout: Duration::from_millis(connect_timeout_ms),
            max_frame_bytes: max_frame_bytes.min(i32::MAX as usize),
            send_buffer_bytes: usize::try_from(send_buffer_bytes).ok(),
            receive_buffer_bytes: usize::try_from(receive_buffer_bytes).ok(),
        };
        let connection = Connection::open(connection_id, settings, Arc::clone(&events.queue))?;
        Ok(Self { connection })
    }

    /// Queue one request: header and body, without the length prefix, which is added here.
    #[pyo3(signature = (correlation_id, payload, expect_response = true))]
    fn send(
        &self,
        py: Python<'_>,
        correlation_id: i32,
        payload: &Bound<'_, PyAny>,
        expect_response: bool,
    ) -> PyResult<()> {
        self.check(py)?;
        with_bytes(payload, |payload| {
            self.connection
                .send(correlation_id, payload, expect_response)
        })
    }

    /// Requests that were queued or sent and are not answered yet.
    fn in_flight(&self) -> usize {
        self.connection.in_flight()
    }

    /// Repeat a heartbeat every interval_ms from the connection's own thread, which needs no GIL.
    #[pyo3(
        signature = (
            frame, *, interval_ms, answer_timeout_ms, plain_answer, fetcher = None, max_idle_ms = 0, member_epoch_at = -1,
            throttle_at = -1, first_in_ms = None,
        ),
        text_signature = "($self, frame, *, interval_ms, answer_timeout_ms, plain_answer, fetcher=None, max_idle_ms=0, \
            member_epoch_at=-1, throttle_at=-1, first_in_ms=None)",
    )]
    #[expect(clippy::too_many_arguments, reason = "one keyword each in Python")]
    fn start_heartbeats(
        &self,
        py: Python<'_>,
        frame: &Bound<'_, PyAny>,
        interval_ms: u64,
        answer_timeout_ms: u64,
        plain_answer: &Bound<'_, PyAny>,
        fetcher: Option<&PyFetcher>,
        max_idle_ms: u64,
        member_epoch_at: i64,
        throttle_at: i64,
        first_in_ms: Option<u64>,
    ) -> PyResult<i64> {
        self.check(py)?;
        let progress = fetcher.filter(|_| max_idle_ms > 0).map(PyFetcher::progress);
        let what = Heartbeats {
            frame: with_bytes(frame, <[u8]>::to_vec)?,
            interval: Duration::from_millis(interval_ms),
            first_in: Duration::from_millis(first_in_ms.unwrap_or(interval_ms)),
            answer_timeout: Duration::from_millis(answer_timeout_ms),
            plain_answer: with_bytes(plain_answer, <[u8]>::to_vec)?,
            throttle_at: usize::try_from(throttle_at).ok(),
            member_epoch_at: usize::try_from(member_epoch_at).ok(),
            limit: progress
                .map(|progress| (Arc::clone(progress), Duration::from_millis(max_idle_ms))),
        };
        let started = self.connection.start_heartbeats(what);
        started.map_err(PyValueError::new_err)
    }

    /// End the heartbeats; idempotent.
    fn stop_heartbeats(&self, py: Python<'_>) -> PyResult<()> {
        self.check(py)?;
        self.connection.stop_heartbeats();
        Ok(())
    }

    /// (sent, plain answers, milliseconds since the last good answer or -1), of all starts.
    fn heartbeats(&self) -> (u64, u64, i64) {
        let (sent, plain, since_good_ms) = self.connection.heartbeats();
        let since_good_ms = since_good_ms.and_then(|ms| i64::try_from(ms).ok());
        (sent, plain, since_good_ms.unwrap_or(-1))
    }

    /// End the connection; idempotent. EVENT_CLOSED follows.
    fn close(&self) {
        self.connection.close();
    }
}

impl PyConnection {
    pub fn check(&self, py: Python<'_>) -> PyResult<()> {
        errors::check_process(py, self.connection.process_id(), "this connection")
    }
}
