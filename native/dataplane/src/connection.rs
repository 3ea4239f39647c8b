//! One connection to one broker, and its thread.
//!
//! The thread waits in poll(2) for the socket and for a [`Signal`] that everybody else raises after having changed
//! something: a command in the mailbox, room in the buffer, a partition to fetch. It holds no lock while it waits,
//! reads, writes or decodes.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

pub use crate::connect::Settings;
use crate::connect::{ConnectError, Transport, connect};
use crate::events::{Event, EventQueue};
use crate::frame::FrameReader;
use crate::signal::{Signal, timespec};

/// Correlation ids of the fetch loop: a range that no engine reaches by counting from 1. Matching does not rely on it
/// (answers come in order); people who read a capture of the network do.
const RIDER_CORRELATION_IDS: std::ops::RangeInclusive<i32> = 0x4000_0000..=0x7fff_ffff;
/// After so many bytes in one go the thread looks at its mailbox again.
const READ_TURN_BYTES: usize = 1 << 20;

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

enum Command {
    Send {
        correlation_id: i32,
        framed: Vec<u8>,
        expect_response: bool,
    },
    Board(Box<dyn Rider>),
}

/// The mailbox. Bounded by its senders: the engine's requests in flight, one rider at a time.
#[derive(Default)]
struct Mailbox {
    commands: VecDeque<Command>,
    closing: bool,
    finished: bool,
}

struct Shared {
    id: i64,
    mailbox: Mutex<Mailbox>,
    signal: Arc<Signal>,
    in_flight: AtomicUsize,
}

impl Shared {
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
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

    /// What makes the connection's thread look around.
    pub fn signal(&self) -> Arc<Signal> {
        Arc::clone(&self.shared.signal)
    }

    /// Requests that were sent, or queued, and not answered yet; the rider's included.
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
        let mut mailbox = self.shared.mailbox();
        if mailbox.closing || mailbox.finished {
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

fn thread_main(shared: &Shared, settings: &Settings, events: &EventQueue) {
    let result = catch_unwind(AssertUnwindSafe(|| run(shared, settings, events)));
    let reason = result.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().map(String::as_str);
        let what = what
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        format!("a fault of penstock itself in the connection's thread: {what}")
    });
    let mut mailbox = shared.mailbox();
    mailbox.finished = true;
    // Riders are dropped without the lock: they take others.
    let rest = std::mem::take(&mut mailbox.commands);
    drop(mailbox);
    drop(rest);
    shared.in_flight.store(0, Ordering::Relaxed);
    events.push(Event::Closed {
        connection: shared.id,
        reason,
    });
}

/// Until the end of the connection; returns the reason of it.
fn run(shared: &Shared, settings: &Settings, events: &EventQueue) -> String {
    let (transport, address) = match connect(settings, &shared.signal, || shared.mailbox().closing)
    {
        Ok(connected) => connected,
        Err(ConnectError::Interrupted) => return CLOSED_HERE.into(),
        Err(ConnectError::Failed(why)) => return why,
    };
    events.push(Event::Connected {
        connection: shared.id,
        address: address.to_string(),
    });
    let mut runner = Runner {
        shared,
        events,
        transport,
        reader: FrameReader::new(settings.max_frame_bytes),
        outgoing: VecDeque::new(),
        sent_of_first: 0,
        in_flight: VecDeque::new(),
        held: None,
        rider: None,
        rider_number: 0,
        rider_waits_since: None,
        next_correlation_id: *RIDER_CORRELATION_IDS.start(),
        has_sent: false,
    };
    loop {
        if let Err(reason) = runner.turn() {
            return reason;
        }
    }
}

const CLOSED_HERE: &str = "closed by this side";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    Engine,
    /// Which of the riders that the connection has had.
    Rider(u64),
}

struct Runner<'a> {
    shared: &'a Shared,
    events: &'a EventQueue,
    transport: Transport,
    reader: FrameReader,
    outgoing: VecDeque<Vec<u8>>,
    sent_of_first: usize,
    /// Answers come in the order of requests.
    in_flight: VecDeque<(i32, Asker)>,
    /// An answer for a rider that is still at work with the one before. Nothing is read while it is here.
    held: Option<Bytes>,
    rider: Option<Box<dyn Rider>>,
    rider_number: u64,
    /// Set while the rider's request is outstanding; moved on by every byte that arrives.
    rider_waits_since: Option<Instant>,
    next_correlation_id: i32,
    has_sent: bool,
}

impl Runner<'_> {
    /// Once around: mailbox, rider, socket. The order matters: a rider that has just heard an answer sends its next
    /// request before it begins to work on that answer.
    fn turn(&mut self) -> Result<(), String> {
        self.shared.signal.clear();
        self.take_commands()?;
        self.ask_for_rider();
        self.write()?;
        let mut work = self.rider.as_mut().map_or(Work::Idle, |rider| rider.work());
        if work == Work::Idle
            && let Some(frame) = self.held.take()
        {
            self.hear_for_rider(frame)?;
            work = Work::More;
        }
        let reads = work != Work::Blocked && self.held.is_none();
        if self.wait(work, reads)? && reads {
            self.read()?;
        }
        Ok(())
    }

    fn take_commands(&mut self) -> Result<(), String> {
        let mut mailbox = self.shared.mailbox();
        if mailbox.closing {
            return Err(CLOSED_HERE.into());
        }
        let commands = std::mem::take(&mut mailbox.commands);
        drop(mailbox);
        for command in commands {
            match command {
                Command::Send {
                    correlation_id,
                    framed,
                    expect_response,
                } => {
                    self.outgoing.push_back(framed);
                    if expect_response {
                        self.in_flight.push_back((correlation_id, Asker::Engine));
                    }
                }
                Command::Board(rider) => self.replace_rider(rider),
            }
        }
        Ok(())
    }

    fn replace_rider(&mut self, rider: Box<dyn Rider>) {
        self.rider = Some(rider);
        self.rider_number += 1;
        self.rider_waits_since = None;
        self.held = None;
    }

    fn ask_for_rider(&mut self) {
        if self.rider_waits_since.is_some() || self.held.is_some() {
            return;
        }
        let correlation_id = self.next_correlation_id;
        let Some(request) = self
            .rider
            .as_mut()
            .and_then(|rider| rider.request(correlation_id))
        else {
            return;
        };
        let after = correlation_id.checked_add(1);
        self.next_correlation_id = after.unwrap_or(*RIDER_CORRELATION_IDS.start());
        self.in_flight
            .push_back((correlation_id, Asker::Rider(self.rider_number)));
        self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        self.outgoing
            .push_back((request.len() as u32).to_be_bytes().to_vec());
        self.outgoing.push_back(request);
        self.rider_waits_since = Some(Instant::now());
    }

    fn write(&mut self) -> Result<(), String> {
        while let Some(first) = self.outgoing.front() {
            let rest = first.get(self.sent_of_first..).unwrap_or_default();
            if rest.is_empty() {
                self.outgoing.pop_front();
                self.sent_of_first = 0;
                continue;
            }
            match self.transport.write(rest) {
                Ok(count) => {
                    self.sent_of_first += count;
                    self.has_sent = true;
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(())
    }

    /// Waits for something to do; true if the socket has something to read.
    fn wait(&mut self, work: Work, reads: bool) -> Result<bool, String> {
        let timeout = self.timeout(work, reads)?;
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::IN, reads);
        wanted.set(PollFlags::OUT, !self.outgoing.is_empty());
        let mut fds = [
            PollFd::new(&*self.shared.signal, PollFlags::IN),
            PollFd::new(&self.transport, wanted),
        ];
        // A socket that nothing is wanted of is left out: poll would report a hang-up again and again.
        let count = if wanted.is_empty() { 1 } else { 2 };
        match poll(
            fds.get_mut(..count).unwrap_or_default(),
            timeout.map(timespec).as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("poll failed: {}", std::io::Error::from(error))),
        }
        let [_, socket] = &fds;
        Ok(socket
            .revents()
            .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
    }

    /// How long there is nothing to do if nothing happens.
    fn timeout(&mut self, work: Work, reads: bool) -> Result<Option<Duration>, String> {
        let Some(rider) = &self.rider else {
            return Ok(None);
        };
        if work == Work::More {
            return Ok(Some(Duration::ZERO));
        }
        let now = Instant::now();
        let Some(since) = self.rider_waits_since else {
            return Ok(rider.wake_at().map(|at| at.saturating_duration_since(now)));
        };
        if !reads {
            // What is not read cannot be late: the answer's time begins when reading does.
            self.rider_waits_since = Some(now);
            return Ok(None);
        }
        let limit = rider.response_timeout();
        let left = limit.saturating_sub(now.saturating_duration_since(since));
        if left.is_zero() {
            return Err(format!(
                "no answer to a Fetch request within {} ms",
                limit.as_millis()
            ));
        }
        Ok(Some(left))
    }

    fn read(&mut self) -> Result<(), String> {
        let mut total = 0;
        while total < READ_TURN_BYTES && self.held.is_none() {
            let space = self.reader.space();
            let wanted = space.len();
            let count = match self.transport.read(space) {
                Ok(0) => return Err(self.ended()),
                Ok(count) => count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(self.broken(error)),
            };
            total += count;
            if let Some(since) = &mut self.rider_waits_since {
                *since = Instant::now();
            }
            let frame = self
                .reader
                .advance(count)
                .map_err(|error| error.to_string())?;
            if let Some(frame) = frame {
                self.hear(frame)?;
            }
            if count < wanted {
                break;
            }
        }
        Ok(())
    }

    fn hear(&mut self, frame: Bytes) -> Result<(), String> {
        let (id, _) = frame
            .split_first_chunk::<4>()
            .ok_or("it sent a response without a correlation id")?;
        let id = i32::from_be_bytes(*id);
        let Some((expected, asker)) = self.in_flight.pop_front() else {
            return Err(format!(
                "it sent a response (correlation id {id}) although no request waits for one"
            ));
        };
        if id != expected {
            return Err(format!(
                "it answered request {id} although request {expected} is the oldest that waits"
            ));
        }
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        match asker {
            Asker::Engine => {
                self.events.push(Event::Response {
                    connection: self.shared.id,
                    correlation_id: id,
                    frame,
                });
                Ok(())
            }
            // Of a rider that has left: nobody wants it.
            Asker::Rider(number) if number != self.rider_number => Ok(()),
            Asker::Rider(_) => {
                self.held = Some(frame);
                Ok(())
            }
        }
    }

    fn hear_for_rider(&mut self, frame: Bytes) -> Result<(), String> {
        self.rider_waits_since = None;
        self.rider
            .as_mut()
            .map_or(Ok(()), |rider| rider.response(frame))
    }

    fn broken(&self, error: Errno) -> String {
        let what = std::io::Error::from(error).to_string();
        match self.first_contact_hint() {
            Some(hint) => format!("the connection broke ({what}) {hint}"),
            None => format!("the connection broke: {what}"),
        }
    }

    fn ended(&self) -> String {
        if let Some(where_) = self.reader.unfinished() {
            return format!("the peer closed the connection {where_}");
        }
        match self.first_contact_hint() {
            Some(hint) => format!("the peer closed the connection {hint}"),
            None => "the peer closed the connection".into(),
        }
    }

    fn first_contact_hint(&self) -> Option<&'static str> {
        (self.has_sent && self.reader.is_untouched()).then_some(
            "at the first request, without an answer; a listener that wants TLS or another security.protocol does \
             that, and so does a service that is no Kafka broker",
        )
    }
}
