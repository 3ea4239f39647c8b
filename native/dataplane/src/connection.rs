//! One connection to one broker, and its thread.
//!
//! The thread waits in poll(2) for the socket and for a [`Signal`] that everybody else raises after having changed
//! something: a command in the mailbox, room in the buffer, a partition to fetch. It holds no lock while it waits,
//! reads, writes or decodes.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use crate::connect::Settings;
use crate::events::EventQueue;
use crate::heartbeat::{Heartbeats, Tally};
use crate::runner::thread_main;
use crate::signal::Signal;

/// What a rider has to do besides asking and hearing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing.
    Idle,
    /// Something; call again.
    More,
    /// Something, once the connection's signal is raised. The socket is not read meanwhile: the peer feels it through
    /// TCP's own flow control.
    Blocked,
}

/// What runs on a connection's thread beside the requests that are sent through it: the fetch loop. It has at most one
/// request outstanding, and `response` is not called before `work` has returned `Idle`. Dropped when it is replaced or
/// the connection ends.
pub trait Rider: Send {
    /// The next request, header and body, if there is something to ask for. Called only while none is outstanding.
    fn request(&mut self, correlation_id: i32) -> Option<Vec<u8>>;
    /// The answer; an error closes the connection with that reason.
    ///
    /// # Errors
    /// The bytes are no answer to the request.
    fn response(&mut self, frame: Bytes) -> Result<(), String>;
    /// One step of what is to be done with the last answer.
    fn work(&mut self) -> Work;
    /// How long an answer may take while nothing arrives at all.
    fn response_timeout(&self) -> Duration;
    /// When `request` should be called although nobody raised the signal (throttling, KIP-219).
    fn wake_at(&self) -> Option<Instant>;
}

pub(crate) enum Command {
    Send {
        correlation_id: i32,
        framed: Vec<u8>,
        expect_response: bool,
    },
    Board(Box<dyn Rider>),
    StartHeartbeats {
        what: Box<Heartbeats>,
        generation: i64,
        asked: Instant,
    },
    StopHeartbeats,
}

/// The mailbox. Bounded by its senders: the engine's requests in flight, one rider at a time, and the engine's calls that
/// start and stop heartbeats while the thread is busy.
#[derive(Default)]
pub(crate) struct Mailbox {
    pub commands: VecDeque<Command>,
    /// How often heartbeats were started.
    heartbeat_generation: i64,
    pub closing: bool,
    pub finished: bool,
}

pub(crate) struct Shared {
    pub id: i64,
    mailbox: Mutex<Mailbox>,
    pub signal: Arc<Signal>,
    pub in_flight: AtomicUsize,
    pub tally: Tally,
}

impl Shared {
    pub fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A handle to a connection's thread. Dropping it closes the connection, except in a forked child, where the thread does
/// not exist and a lock may be held for ever by one that doesn't either.
pub struct Connection {
    shared: Arc<Shared>,
    process_id: u32,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("id", &self.shared.id)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Starts the thread, which connects. What comes of it arrives in `events`.
    ///
    /// # Errors
    /// No thread or no file descriptor could be had.
    pub fn open(id: i64, settings: Settings, events: Arc<EventQueue>) -> std::io::Result<Self> {
        let signal = Arc::new(Signal::new()?);
        let shared = Arc::new(Shared {
            id,
            mailbox: Mutex::default(),
            signal,
            in_flight: AtomicUsize::new(0),
            tally: Tally::new(),
        });
        let theirs = Arc::clone(&shared);
        let name = format!("penstock-io-{id}");
        std::thread::Builder::new()
            .name(name)
            .spawn(move || thread_main(&theirs, &settings, &events))?;
        Ok(Self {
            shared,
            process_id: std::process::id(),
        })
    }

    /// The number given to `open`.
    pub fn id(&self) -> i64 {
        self.shared.id
    }

    /// Queues a request: header and body, without the length prefix. Without effect once the connection has ended.
    pub fn send(&self, correlation_id: i32, payload: &[u8], expect_response: bool) {
        let mut framed = Vec::with_capacity(payload.len() + 4);
        framed.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        framed.extend_from_slice(payload);
        self.post(Command::Send {
            correlation_id,
            framed,
            expect_response,
        });
    }

    /// Puts a rider on the connection, in place of the one before.
    pub fn board(&self, rider: Box<dyn Rider>) {
        self.post(Command::Board(rider));
    }

    /// Repeats a heartbeat from the connection's own thread, in place of the one before. Returns which start this was: 1, 2, ...
    ///
    /// # Errors
    /// What of it makes no sense.
    pub fn start_heartbeats(&self, what: Heartbeats) -> Result<i64, String> {
        what.check()?;
        let mut mailbox = self.shared.mailbox();
        mailbox.heartbeat_generation += 1;
        let generation = mailbox.heartbeat_generation;
        self.post_to(
            mailbox,
            Command::StartHeartbeats {
                what: Box::new(what),
                generation,
                asked: Instant::now(),
            },
        );
        Ok(generation)
    }

    /// Ends them; idempotent. The answer to a beat that was sent before is not delivered.
    pub fn stop_heartbeats(&self) {
        self.post(Command::StopHeartbeats);
    }

    /// (heartbeats sent, plain answers, milliseconds since the last answer that was a yes), of all starts.
    pub fn heartbeats(&self) -> (u64, u64, Option<u64>) {
        self.shared.tally.read()
    }

    /// What makes the connection's thread look around.
    pub fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.shared.signal)
    }

    /// Requests that were sent, or queued, and not answered yet; the rider's and heartbeats included.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Ends the connection, soon; idempotent.
    pub fn close(&self) {
        if self.process_id == std::process::id() {
            self.shared.mailbox().closing = true;
            self.shared.signal.notify();
        }
    }

    /// The process that opened it, and has its thread.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    fn post(&self, command: Command) {
        self.post_to(self.shared.mailbox(), command);
    }

    fn post_to(&self, mut mailbox: MutexGuard<'_, Mailbox>, command: Command) {
        if mailbox.closing || mailbox.finished {
            drop(mailbox); // Before the command: a rider takes other locks when it goes.
            return;
        }
        if let Command::Send {
            expect_response: true,
            ..
        } = command
        {
            self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        mailbox.commands.push_back(command);
        drop(mailbox);
        self.shared.signal.notify();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.close();
    }
}
