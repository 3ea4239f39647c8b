//! Heartbeats of a group's member, repeated by a connection's thread: whoever holds the GIL, and for however long, costs
//! no membership.
//!
//! Nothing here knows what an answer means to the group. An answer that equals the plain one is a yes and wakes nobody; any
//! other is delivered. Only a member epoch (KIP-848) is followed here, since the broker fences whoever goes on to name the
//! old one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::heartbeat_answer::{Expected, api_key, int32, member_answer, put_int32};
use crate::progress::Progress;

pub use crate::heartbeat_answer::fuzz;

/// Correlation ids of heartbeats: neither the engine's, which counts from 1, nor the riders'.
pub(crate) const CORRELATION_IDS: std::ops::RangeInclusive<i32> = 0x6000_0000..=0x7fff_ffff;
/// Where a request's correlation id stands: api key (2 bytes), api version (2), correlation id (4).
const CORRELATION_ID_AT: usize = 4;
const CORRELATION_ID_BYTES: usize = 4;

/// What to repeat, how often, and what to expect.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    /// The request: header and body, without the length prefix. Its correlation id is replaced.
    pub frame: Vec<u8>,
    /// From one beat to the next.
    pub interval: Duration,
    /// From now to the first beat.
    pub first_in: Duration,
    /// Without an answer for so long the connection ends.
    pub answer_timeout: Duration,
    /// An answer's bytes after the correlation id, if it is a yes.
    pub plain_answer: Vec<u8>,
    /// Where throttle_time_ms (int32) stands in it; it is not compared.
    pub throttle_at: Option<usize>,
    /// Where the member epoch (int32) stands in a frame that is a ConsumerGroupHeartbeat.
    pub member_epoch_at: Option<usize>,
    /// No beat once the user's thread is idle for longer.
    pub limit: Option<(Arc<Progress>, Duration)>,
}

impl Heartbeats {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let (frame, answer) = (self.frame.len(), self.plain_answer.len());
        if frame < CORRELATION_ID_AT + CORRELATION_ID_BYTES {
            return Err(format!(
                "a request of {frame} bytes is too short for its header"
            ));
        }
        if self.interval.is_zero() || self.answer_timeout.is_zero() {
            return Err("interval_ms and answer_timeout_ms must be positive".into());
        }
        match (self.member_epoch_at, self.throttle_at) {
            (Some(at), _) if int32(&self.frame, at).is_none() => Err(format!(
                "no member epoch can stand at byte {at} of a request of {frame} bytes"
            )),
            (_, Some(at)) if int32(&self.plain_answer, at).is_none() => Err(format!(
                "no throttle_time_ms can stand at byte {at} of an answer of {answer} bytes"
            )),
            _ => Ok(()),
        }
    }
}

/// What repeats, until it is replaced or stopped.
struct Beating {
    generation: i64,
    frame: Vec<u8>,
    interval: Duration,
    answer_timeout: Duration,
    expected: Arc<Expected>,
    member_epoch_at: Option<usize>,
    limit: Option<(Arc<Progress>, Duration)>,
    /// None: beyond what a clock can tell.
    due: Option<Instant>,
}

impl Beating {
    fn epoch(&self) -> Option<i32> {
        self.member_epoch_at.and_then(|at| int32(&self.frame, at))
    }

    fn set_epoch(&mut self, epoch: i32) {
        if let Some(at) = self.member_epoch_at {
            put_int32(&mut self.frame, at, epoch);
        }
    }
}

/// A beat without an answer yet.
struct Unanswered {
    generation: i64,
    expected: Arc<Expected>,
    epoch: Option<i32>,
    /// Since when it could have been answered.
    since: Instant,
    /// At the last call of `left`.
    was_audible: bool,
    timeout: Duration,
    /// False once the heartbeats were stopped.
    wanted: bool,
}

/// What a connection's heartbeats have come to. Written by its thread, read by any.
#[derive(Debug)]
pub(crate) struct Tally {
    made: Instant,
    sent: AtomicU64,
    plain: AtomicU64,
    /// Milliseconds since `made`, and one; 0: never.
    good_at: AtomicU64,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            made: Instant::now(),
            sent: AtomicU64::new(0),
            plain: AtomicU64::new(0),
            good_at: AtomicU64::new(0),
        }
    }

    pub fn count_sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count(&self, heard: &Heard) {
        if heard.plain {
            self.plain.fetch_add(1, Ordering::Relaxed);
        }
        if heard.good {
            self.good_at.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// (sent, plain answers, milliseconds since the last good answer).
    pub fn read(&self) -> (u64, u64, Option<u64>) {
        let good_at = self.good_at.load(Ordering::Relaxed).checked_sub(1);
        (
            self.sent.load(Ordering::Relaxed),
            self.plain.load(Ordering::Relaxed),
            good_at.map(|at| self.now_ms().saturating_sub(at)),
        )
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

/// What is to be done now.
pub(crate) enum Beat {
    /// Nothing.
    None,
    /// A request to write, with its length prefix.
    Send {
        correlation_id: i32,
        framed: Vec<u8>,
    },
    /// To say that there are no more beats: the user's thread is idle.
    Stopped { generation: i64, idle_ms: u64 },
}

/// What an answer was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Equal to the plain one.
    pub plain: bool,
    /// A yes, perhaps with something to tell.
    pub good: bool,
    /// The generation to deliver it under.
    pub deliver: Option<i64>,
}

/// The heartbeats of one connection. Only its thread has it; time is a parameter.
pub(crate) struct Heart {
    beating: Option<Beating>,
    unanswered: Option<Unanswered>,
    /// A beat is due, and waits for the answer to a heartbeat of the engine's.
    held: bool,
    next_correlation_id: i32,
}

impl Heart {
    pub fn new() -> Self {
        Self {
            beating: None,
            unanswered: None,
            held: false,
            next_correlation_id: *CORRELATION_IDS.start(),
        }
    }

    /// Begins, in place of what was repeated before. `asked` is when the caller said so.
    pub fn start(&mut self, what: Heartbeats, generation: i64, asked: Instant) {
        let expected = Expected {
            plain_answer: what.plain_answer,
            throttle_at: what.throttle_at,
            follows_epoch: what.member_epoch_at.is_some(),
        };
        self.held = false;
        self.beating = Some(Beating {
            generation,
            frame: what.frame,
            interval: what.interval,
            answer_timeout: what.answer_timeout,
            expected: Arc::new(expected),
            member_epoch_at: what.member_epoch_at,
            limit: what.limit,
            due: asked.checked_add(what.first_in),
        });
    }

    /// Ends; the answer that may still come is of no interest.
    pub fn stop(&mut self) {
        self.beating = None;
        self.held = false;
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.wanted = false;
        }
    }

    /// The beat, if it is time. `requests`: the API keys of the engine's requests in flight. While one of them is a
    /// heartbeat itself, none is sent: the broker may raise the member's epoch with its answer, and would fence a beat that
    /// names the epoch before.
    pub fn beat(&mut self, now: Instant, mut requests: impl Iterator<Item = i16>) -> Beat {
        let Some(beating) = &mut self.beating else {
            return Beat::None;
        };
        let is_due = beating.due.is_some_and(|due| due <= now);
        if self.unanswered.is_some() || !is_due {
            return Beat::None;
        }
        let key = api_key(&beating.frame);
        self.held = requests.any(|other| Some(other) == key);
        if self.held {
            return Beat::None;
        }
        if let Some((progress, max_idle)) = &beating.limit {
            let idle_ms = progress.idle_ms();
            if u128::from(idle_ms) > max_idle.as_millis() {
                let generation = beating.generation;
                self.beating = None;
                return Beat::Stopped {
                    generation,
                    idle_ms,
                };
            }
        }
        let correlation_id = self.next_correlation_id;
        let after = correlation_id.checked_add(1);
        self.next_correlation_id = after.unwrap_or(*CORRELATION_IDS.start());
        put_int32(&mut beating.frame, CORRELATION_ID_AT, correlation_id);
        // What was missed is not made up for: a broker needs one beat, not all of them.
        beating.due = now.checked_add(beating.interval);
        self.unanswered = Some(Unanswered {
            generation: beating.generation,
            expected: Arc::clone(&beating.expected),
            epoch: beating.epoch(),
            since: now,
            was_audible: false,
            timeout: beating.answer_timeout,
            wanted: true,
        });
        let mut framed = Vec::with_capacity(beating.frame.len() + 4);
        framed.extend_from_slice(&(beating.frame.len() as u32).to_be_bytes());
        framed.extend_from_slice(&beating.frame);
        Beat::Send {
            correlation_id,
            framed,
        }
    }

    /// The answer to the beat. `frame` begins with the correlation id.
    pub fn hear(&mut self, frame: &Bytes) -> Heard {
        let body = frame.get(CORRELATION_ID_BYTES..).unwrap_or_default();
        let Some(beat) = self.unanswered.take() else {
            return Heard {
                plain: false,
                good: false,
                deliver: None,
            };
        };
        let plain = beat.expected.is_plain(body, beat.epoch);
        let raised = beat
            .expected
            .follows_epoch
            .then(|| member_answer(body))
            .flatten()
            .filter(|answer| answer.error_code == 0 && answer.epoch > 0);
        // The frame may have been replaced since the beat was sent. Its epoch is as old as the beat's only if it is the same.
        if let (Some(answer), Some(beating)) = (&raised, &mut self.beating)
            && beating.epoch() == beat.epoch
        {
            beating.set_epoch(answer.epoch);
        }
        Heard {
            plain,
            good: plain || raised.is_some(),
            deliver: (beat.wanted && !plain).then_some(beat.generation),
        }
    }

    /// The answer to a request of the engine. If that was a heartbeat, too, the epoch it tells holds for the next beat:
    /// Python may not have the GIL to say so before.
    pub fn overhear(&mut self, request_key: i16, frame: &Bytes) {
        let Some(beating) = &mut self.beating else {
            return;
        };
        let body = frame.get(CORRELATION_ID_BYTES..).unwrap_or_default();
        if api_key(&beating.frame) == Some(request_key)
            && let (Some(epoch), Some(answer)) = (beating.epoch(), member_answer(body))
            && answer.error_code == 0
            && answer.epoch > epoch
        {
            beating.set_epoch(answer.epoch);
        }
    }

    /// How long there is nothing to do if nothing happens; None: for ever. `audible`: the beat's answer is the next one to
    /// come, and is read when it does. Otherwise it cannot be late: it waits for an answer before it (a JoinGroup has minutes),
    /// or for room in the buffer.
    ///
    /// # Errors
    /// The reason why the connection has to end.
    pub fn left(&mut self, now: Instant, audible: bool) -> Result<Option<Duration>, String> {
        let is_beating = self.beating.is_some();
        let Some(beat) = &mut self.unanswered else {
            let beating = self.beating.as_ref().filter(|_| !self.held);
            let due = beating.and_then(|beating| beating.due);
            return Ok(due.map(|due| due.saturating_duration_since(now)));
        };
        if audible && !beat.was_audible {
            beat.since = now;
        }
        beat.was_audible = audible;
        if !audible || !(beat.wanted || is_beating) {
            return Ok(None);
        }
        let left = beat
            .timeout
            .saturating_sub(now.saturating_duration_since(beat.since));
        if left.is_zero() {
            let limit = beat.timeout.as_millis();
            return Err(format!("no answer to a heartbeat within {limit} ms"));
        }
        Ok(Some(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heartbeat_answer::tests::answer;

    const EPOCH_AT: usize = 12;
    const CONSUMER_GROUP_HEARTBEAT: i16 = 68;

    /// A frame whose api key is that of a ConsumerGroupHeartbeat, and its epoch.
    fn frame(epoch: i32) -> Vec<u8> {
        let mut frame = vec![0, 68, 0, 1, 0, 0, 0, 0, b'x', b'x', b'x', b'x'];
        frame.extend(epoch.to_be_bytes());
        frame
    }

    fn heartbeats(epoch: i32) -> Heartbeats {
        Heartbeats {
            frame: frame(epoch),
            interval: Duration::from_secs(3),
            first_in: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(30),
            plain_answer: answer(0, 0, None, epoch),
            throttle_at: Some(1),
            member_epoch_at: Some(EPOCH_AT),
            limit: None,
        }
    }

    /// A heart and a clock for it.
    struct Bench {
        heart: Heart,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            let mut heart = Heart::new();
            heart.start(heartbeats(7), 1, start);
            Self { heart, start }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn beat(&mut self, seconds: u64, requests: &[i16]) -> Beat {
            let now = self.at(seconds);
            self.heart.beat(now, requests.iter().copied())
        }

        /// The correlation id and the epoch of the beat that is sent now.
        fn sent(&mut self, seconds: u64) -> Option<(i32, i32)> {
            match self.beat(seconds, &[]) {
                Beat::Send {
                    correlation_id,
                    framed,
                } => {
                    assert_eq!(int32(&framed, 0), i32::try_from(framed.len() - 4).ok());
                    assert_eq!(int32(&framed, 4 + CORRELATION_ID_AT), Some(correlation_id));
                    Some((correlation_id, int32(&framed, 4 + EPOCH_AT).unwrap()))
                }
                _ => None,
            }
        }

        fn left(&mut self, seconds: u64, audible: bool) -> Result<Option<u64>, String> {
            let now = self.at(seconds);
            let left = self.heart.left(now, audible)?;
            Ok(left.map(|left| left.as_secs()))
        }

        fn hear(&mut self, body: &[u8]) -> Heard {
            self.heart.hear(&response(body))
        }
    }

    fn response(body: &[u8]) -> Bytes {
        Bytes::from([&[0; 4], body].concat())
    }

    #[test]
    fn beats_are_an_interval_apart_and_none_is_sent_before_the_last_is_answered() {
        let mut bench = Bench::new();
        assert_eq!(bench.left(0, false), Ok(Some(1)));
        assert_eq!(bench.sent(0), None);
        assert_eq!(bench.sent(1), Some((0x6000_0000, 7)));
        assert_eq!(bench.sent(9), None);
        let heard = bench.hear(&answer(5, 0, None, 7));
        assert!(heard.plain && heard.good && heard.deliver.is_none());
        assert_eq!(bench.left(9, false), Ok(Some(0)));
        assert_eq!(bench.sent(9), Some((0x6000_0001, 7)));
        bench.hear(&answer(0, 0, None, 7));
        assert_eq!(bench.left(9, false), Ok(Some(3)));
        assert_eq!(bench.sent(11), None);
        assert_eq!(bench.sent(12), Some((0x6000_0002, 7)));
    }

    #[test]
    fn correlation_ids_stay_in_their_range() {
        let mut bench = Bench::new();
        bench.heart.next_correlation_id = i32::MAX;
        assert_eq!(bench.sent(1), Some((i32::MAX, 7)));
        bench.hear(&answer(0, 0, None, 7));
        assert_eq!(bench.sent(4), Some((0x6000_0000, 7)));
    }

    #[test]
    fn a_raised_epoch_is_delivered_and_named_by_the_next_beat() {
        let mut bench = Bench::new();
        bench.sent(1);
        let heard = bench.hear(&answer(0, 0, None, 8));
        assert!(!heard.plain && heard.good);
        assert_eq!(heard.deliver, Some(1));
        assert_eq!(bench.sent(4).unwrap().1, 8);
        assert!(bench.hear(&answer(0, 0, None, 8)).plain);
    }

    #[test]
    fn errors_garbage_and_the_epochs_of_those_who_leave_change_no_epoch() {
        let mut bench = Bench::new();
        let bodies = [
            answer(0, 110, None, 9),
            answer(0, 0, None, -1),
            answer(0, 0, None, 0),
            vec![0xff; 30],
            Vec::new(),
        ];
        for (second, body) in (1..).step_by(3).zip(bodies) {
            assert_eq!(bench.sent(second).unwrap().1, 7);
            let heard = bench.hear(&body);
            assert!(!heard.good, "{body:?}");
            assert_eq!(heard.deliver, Some(1));
        }
    }

    #[test]
    fn a_late_answer_is_delivered_as_of_its_start_and_swallowed_after_a_stop() {
        let mut bench = Bench::new();
        bench.sent(1);
        bench.heart.start(heartbeats(7), 2, bench.at(1));
        assert_eq!(bench.hear(&answer(0, 27, None, 7)).deliver, Some(1));
        bench.sent(2);
        bench.heart.stop();
        assert_eq!(bench.left(3, true), Ok(None));
        assert_eq!(bench.hear(&answer(0, 27, None, 7)).deliver, None);
        assert_eq!(bench.sent(100), None);
    }

    #[test]
    fn a_late_answer_raises_the_epoch_of_a_frame_that_still_names_the_old_one() {
        for (restarted_with, next) in [(7, 8), (9, 9)] {
            let mut bench = Bench::new();
            bench.sent(1);
            let again = heartbeats(restarted_with);
            bench.heart.start(again, 2, bench.at(1));
            bench.hear(&answer(0, 0, None, 8));
            assert_eq!(bench.sent(2).unwrap().1, next);
        }
    }

    #[test]
    fn no_beat_while_the_engines_own_heartbeat_is_unanswered_and_its_epoch_counts() {
        let mut bench = Bench::new();
        let own = [11, CONSUMER_GROUP_HEARTBEAT];
        assert!(matches!(bench.beat(1, &own), Beat::None));
        assert_eq!(bench.left(1, false), Ok(None), "nothing to do until then");
        let body = response(&answer(0, 0, None, 8));
        bench.heart.overhear(11, &body);
        assert_eq!(bench.heart.beating.as_ref().unwrap().epoch(), Some(7));
        bench.heart.overhear(CONSUMER_GROUP_HEARTBEAT, &body);
        assert_eq!(bench.sent(2).unwrap().1, 8);
    }

    #[test]
    fn an_answer_is_late_only_from_when_it_could_be_heard() {
        let mut bench = Bench::new();
        bench.sent(1);
        assert_eq!(bench.left(1, false), Ok(None));
        assert_eq!(bench.left(600, true), Ok(Some(30)));
        assert_eq!(bench.left(629, true), Ok(Some(1)));
        let reason = "no answer to a heartbeat within 30000 ms";
        assert_eq!(bench.left(630, true), Err(reason.into()));
    }

    #[test]
    fn idleness_stops_it_once() {
        let mut bench = Bench::new();
        let progress = Arc::new(Progress::default());
        let mut what = heartbeats(7);
        // Never idle for so long, and then always: without a clock to wait for.
        what.limit = Some((Arc::clone(&progress), Duration::from_secs(3600)));
        bench.heart.start(what.clone(), 2, bench.start);
        assert!(bench.sent(1).is_some());
        bench.hear(&answer(0, 0, None, 7));
        what.limit = Some((progress, Duration::ZERO));
        bench.heart.start(what, 3, bench.start);
        let deadline = Instant::now() + Duration::from_secs(60);
        let stopped = loop {
            assert!(Instant::now() < deadline);
            match bench.beat(100, &[]) {
                Beat::Stopped { generation, .. } => break generation,
                _ if bench.heart.unanswered.is_some() => drop(bench.hear(b"")),
                _ => bench.heart.beating.as_mut().unwrap().due = Some(bench.start),
            }
        };
        assert_eq!(stopped, 3);
        assert!(matches!(bench.beat(200, &[]), Beat::None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: fn(&mut Heartbeats)| {
            let mut what = heartbeats(7);
            assert_eq!(what.check(), Ok(()));
            change(&mut what);
            what.check().unwrap_err()
        };
        assert!(refused(|what| what.frame.truncate(7)).contains("7 bytes"));
        assert!(refused(|what| what.member_epoch_at = Some(13)).contains("byte 13 of a request"));
        assert!(refused(|what| what.throttle_at = Some(usize::MAX)).contains("throttle_time_ms"));
        assert!(refused(|what| what.interval = Duration::ZERO).contains("positive"));
    }

    #[test]
    fn times_beyond_the_clock_never_come() {
        let mut bench = Bench::new();
        let mut what = heartbeats(7);
        what.first_in = Duration::MAX;
        bench.heart.start(what, 2, bench.start);
        assert_eq!(bench.left(1, false), Ok(None));
        assert_eq!(bench.sent(1_000_000), None);
    }
}
