//! The one place where native threads speak to an engine.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::io::Errno;

use crate::signal::Signal;

/// What a native thread has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A connection is up.
    Connected {
        /// The number that its maker gave it.
        connection: i64,
        /// The peer's address.
        address: String,
    },
    /// A response arrived.
    Response {
        /// Over which connection.
        connection: i64,
        /// To which request.
        correlation_id: i32,
        /// The response, beginning with the correlation id.
        frame: Bytes,
    },
    /// The answer to a heartbeat that the connection's thread sent itself, and that was not the plain one.
    Heartbeat {
        /// Over which connection.
        connection: i64,
        /// Which start of the heartbeats the beat belongs to.
        generation: i64,
        /// The response, beginning with the correlation id.
        frame: Bytes,
    },
    /// No more heartbeats are sent: the user's thread shows no progress.
    HeartbeatsStopped {
        /// Over which connection.
        connection: i64,
        /// Which start of them.
        generation: i64,
        /// For how long there was none.
        idle_ms: u64,
    },
    /// The last event of a connection.
    Closed {
        /// Which one.
        connection: i64,
        /// Why, for people.
        reason: String,
    },
    /// A partition of a fetch response carries an error code; the partition is suspended.
    FetchError {
        /// Which partition.
        handle: u64,
        /// In which of its epochs.
        epoch: u64,
        /// The protocol's error code.
        error_code: i16,
        /// The offset that was asked for.
        fetch_offset: i64,
        /// The leader as the broker knows it (KIP-951), or -1.
        leader_id: i32,
        /// Its epoch, or -1.
        leader_epoch: i32,
        /// The broker that answered.
        node_id: i32,
    },
    /// The leader names a follower to fetch from (KIP-392); the partition is suspended until `set_read_replica`.
    PreferredReplica {
        /// Which partition.
        handle: u64,
        /// In which of its epochs.
        epoch: u64,
        /// The follower.
        node_id: i32,
    },
    /// The leader's log departs from what was fetched (KIP-320, KIP-595); the partition is suspended until a seek.
    Diverging {
        /// Which partition.
        handle: u64,
        /// In which of its epochs.
        epoch: u64,
        /// The last leader epoch that both logs have.
        diverging_epoch: i32,
        /// Where it ends in the leader's log.
        end_offset: i64,
    },
    /// A whole fetch response carries an error code.
    FetchNodeError {
        /// Over which connection.
        connection: i64,
        /// The protocol's error code.
        error_code: i16,
    },
}

#[derive(Debug, Default)]
struct State {
    events: VecDeque<Event>,
    woken: bool,
}

impl State {
    /// Whether this heartbeat's answer repeats the one before it. While Python is kept from the GIL there may be one at every
    /// beat: REBALANCE_IN_PROGRESS, again and again.
    fn knows(&self, event: &Event) -> bool {
        let Some(new) = said(event) else {
            return false;
        };
        let mut waiting = self.events.iter().rev().filter_map(said);
        waiting.find(|old| old.0 == new.0) == Some(new)
    }
}

/// (connection, generation, bytes after the correlation id) of a heartbeat's answer.
fn said(event: &Event) -> Option<(i64, i64, &[u8])> {
    match event {
        Event::Heartbeat {
            connection,
            generation,
            frame,
        } => Some((*connection, *generation, frame.get(4..)?)),
        _ => None,
    }
}

/// Many threads push, one waits.
///
/// Its bound is that of what causes events: a connection gives one event when up, one when closed, one per request in
/// flight; a partition one per fetch error, being suspended then until the engine has dealt with it. Heartbeats give one
/// per answer that says something else than the answer before it that still waits here.
#[derive(Debug)]
pub struct EventQueue {
    state: Mutex<State>,
    signal: Signal,
}

impl EventQueue {
    /// An empty queue.
    ///
    /// # Errors
    /// What the operating system says, mostly that no more files may be open.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            state: Mutex::default(),
            signal: Signal::new()?,
        })
    }

    /// Adds an event; any thread.
    pub fn push(&self, event: Event) {
        let mut state = self.lock();
        if !state.knows(&event) {
            state.events.push_back(event);
        }
        drop(state);
        self.signal.notify();
    }

    /// Makes the present or the next `wait` return at once; any thread.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.signal.notify();
    }

    /// All events that are there, without waiting; and whether `wake` was called since the last time.
    pub fn take(&self) -> (VecDeque<Event>, bool) {
        self.signal.clear();
        let mut state = self.lock();
        (
            std::mem::take(&mut state.events),
            std::mem::take(&mut state.woken),
        )
    }

    /// All events, once there are some or `wake` was called; None after the timeout.
    ///
    /// # Errors
    /// `Errno::INTR` when a signal of the operating system arrived.
    pub fn wait(&self, timeout: Duration) -> Result<Option<VecDeque<Event>>, Errno> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let (events, woken) = self.take();
            if woken || !events.is_empty() {
                return Ok(Some(events));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            self.signal.wait(left)?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for EventQueue {
    /// Readable while `wait` would return at once.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_heartbeats_answer_that_repeats_the_one_before_is_left_out() {
        let queue = EventQueue::new().unwrap();
        let answers: [(i64, i64, &[u8]); 6] = [
            (1, 1, b"...1yes"),
            (1, 1, b"...2yes"),
            (2, 1, b"...2yes"),
            (1, 1, b"...3no"),
            (1, 1, b"...4yes"),
            (1, 2, b"...5yes"),
        ];
        for (connection, generation, frame) in answers {
            queue.push(Event::Heartbeat {
                connection,
                generation,
                frame: Bytes::from_static(frame),
            });
        }
        let frame = |event: &Event| said(event).map(|(_, _, body)| body.to_vec());
        let left: Vec<_> = queue.take().0.iter().filter_map(frame).collect();
        assert_eq!(left, [&b"yes"[..], b"yes", b"no", b"yes", b"yes"]);
    }

    #[test]
    fn events_come_in_order_and_a_wake_alone_returns_nothing() {
        let queue = Arc::new(EventQueue::new().unwrap());
        for connection in 0..3 {
            queue.push(Event::Closed {
                connection,
                reason: String::new(),
            });
        }
        let numbers: Vec<_> = queue
            .wait(LONG)
            .unwrap()
            .unwrap()
            .into_iter()
            .map(|event| match event {
                Event::Closed { connection, .. } => connection,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(numbers, [0, 1, 2]);
        queue.wake();
        assert_eq!(queue.wait(LONG), Ok(Some(VecDeque::new())));
        let waker = Arc::clone(&queue);
        let thread = std::thread::spawn(move || waker.wake());
        assert_eq!(queue.wait(LONG), Ok(Some(VecDeque::new())));
        thread.join().unwrap();
        assert_eq!(queue.wait(Duration::ZERO), Ok(None));
    }
}
