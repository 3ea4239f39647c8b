//! What a connection's thread does: one turn after another, until there is a reason to end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::connect::{ConnectError, Settings, Transport, connect};
use crate::connection::{Command, Rider, Shared, Work};
use crate::events::{Event, EventQueue};
use crate::frame::FrameReader;
use crate::heartbeat::{Beat, Heart};
use crate::heartbeat_answer::api_key;
use crate::signal::timespec;

/// Correlation ids of the fetch loop: a range that no engine reaches by counting from 1. Matching does not rely on it
/// (answers come in order); people who read a capture of the network do.
const RIDER_CORRELATION_IDS: std::ops::RangeInclusive<i32> = 0x4000_0000..=0x5fff_ffff;
/// After so many bytes in one go the thread looks at its mailbox again.
const READ_TURN_BYTES: usize = 1 << 20;

pub(crate) fn thread_main(shared: &Shared, settings: &Settings, events: &EventQueue) {
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
        heart: Heart::new(),
        rider: None,
        rider_number: 0,
        rider_waits_since: None,
        next_correlation_id: *RIDER_CORRELATION_IDS.start(),
        has_sent: false,
    };
    loop {
        if let Err(reason) = runner.turn() {
            // A forked child has the socket, too: closing it here would not tell the peer.
            runner.transport.shut_down();
            return reason;
        }
    }
}

const CLOSED_HERE: &str = "closed by this side";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// With the API key.
    Engine(Option<i16>),
    Heart,
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
    heart: Heart,
    rider: Option<Box<dyn Rider>>,
    rider_number: u64,
    /// Set while the rider's request is outstanding; moved on by every byte that arrives.
    rider_waits_since: Option<Instant>,
    next_correlation_id: i32,
    has_sent: bool,
}

impl Runner<'_> {
    /// Once around: mailbox, heartbeat, rider, socket. The order matters: a rider that has just heard an answer sends its next
    /// request before it begins to work on that answer; and a heartbeat goes before that request, which the broker may hold.
    /// What the engine sends goes before both: it stops the heartbeats before it sends a JoinGroup.
    fn turn(&mut self) -> Result<(), String> {
        self.shared.signal.clear();
        self.take_commands()?;
        self.beat();
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
                    if expect_response {
                        let api_key = framed.get(4..).and_then(api_key);
                        self.in_flight
                            .push_back((correlation_id, Asker::Engine(api_key)));
                    }
                    self.outgoing.push_back(framed);
                }
                Command::Board(rider) => self.replace_rider(rider),
                Command::StartHeartbeats {
                    what,
                    generation,
                    asked,
                } => self.heart.start(*what, generation, asked),
                Command::StopHeartbeats => self.heart.stop(),
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

    fn beat(&mut self) {
        let askers = self.in_flight.iter().map(|&(_, asker)| asker);
        let requests = askers.filter_map(|asker| match asker {
            Asker::Engine(api_key) => api_key,
            _ => None,
        });
        match self.heart.beat(Instant::now(), requests) {
            Beat::None => {}
            Beat::Send {
                correlation_id,
                framed,
            } => {
                self.in_flight.push_back((correlation_id, Asker::Heart));
                self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
                self.shared.tally.count_sent();
                self.outgoing.push_back(framed);
            }
            Beat::Stopped {
                generation,
                idle_ms,
            } => self.events.push(Event::HeartbeatsStopped {
                connection: self.shared.id,
                generation,
                idle_ms,
            }),
        }
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
    ///
    /// An answer is late only if it is not there when it is looked for: this thread, or the whole process, may have had no
    /// turn for longer than the answer had time.
    fn wait(&mut self, work: Work, reads: bool) -> Result<bool, String> {
        let (timeout, late) = match self.timeout(work, reads) {
            Ok(timeout) => (timeout, None),
            Err(reason) => (Some(Duration::ZERO), Some(reason)),
        };
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
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(format!("poll failed: {}", std::io::Error::from(error))),
        }
        let [_, socket] = &fds;
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        match late {
            Some(reason) if !socket.revents().intersects(readable) => Err(reason),
            _ => Ok(socket.revents().intersects(readable)),
        }
    }

    /// How long there is nothing to do if nothing happens.
    fn timeout(&mut self, work: Work, reads: bool) -> Result<Option<Duration>, String> {
        let next = self.in_flight.front();
        let audible = reads && next.is_some_and(|&(_, asker)| asker == Asker::Heart);
        let heart = self.heart.left(Instant::now(), audible)?;
        let rider = self.rider_timeout(work, reads)?;
        Ok([heart, rider].into_iter().flatten().min())
    }

    fn rider_timeout(&mut self, work: Work, reads: bool) -> Result<Option<Duration>, String> {
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
            Asker::Engine(api_key) => {
                if let Some(api_key) = api_key {
                    self.heart.overhear(api_key, &frame);
                }
                self.events.push(Event::Response {
                    connection: self.shared.id,
                    correlation_id: id,
                    frame,
                });
                Ok(())
            }
            Asker::Heart => {
                self.hear_heartbeat(frame);
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

    fn hear_heartbeat(&mut self, frame: Bytes) {
        let heard = self.heart.hear(&frame);
        self.shared.tally.count(&heard);
        if let Some(generation) = heard.deliver {
            self.events.push(Event::Heartbeat {
                connection: self.shared.id,
                generation,
                frame,
            });
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
