//! The fetch loop of one broker. It rides on a connection's thread: at most one request is outstanding, the next one is
//! sent as soon as the headers of an answer's batches have told where it starts, and only then is the answer decoded,
//! chunk by chunk, for as long as the buffer has room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fetcher::Shared;
use super::node::Node;
use super::request::{self, FetchPlan, Wanted};
use super::response::{self, DivergingEpoch, PartitionData};
use super::session::{Lost, Session};
use super::table::{NONE, Partition, Table};
use super::{add, measure};
use crate::batch::{self, Scan};
use crate::buffer::{Entry, Failure, Item};
use crate::connection::{Rider, Work};
use crate::decode::Decoder;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::events::Event;
use crate::signal::Signal;

/// Answers up to this size are decoded before the next request is sent. It takes microseconds, and where few records come, the
/// first of them counts: sending first would wake the broker, which might take the very core that `poll` is about to run on.
const SMALL_FRAME_BYTES: usize = 16 << 10;

/// From this version on a throttled client is answered at once and asked to be silent; before, the answer was held back (KIP-219).
const CLIENT_THROTTLES_FROM: i16 = 8;
/// Before the next full request, where one has just been answered with the loss of its session.
const PAUSE_AFTER_LOSSES: Duration = Duration::from_millis(100);

/// What is left of one partition's part of an answer.
struct PartitionWork {
    handle: u64,
    epoch: u64,
    decoder: Decoder,
    records: Bytes,
    /// What has been pushed reaches to here; where to fetch from if the rest is lost with the connection.
    pushed_offset: i64,
    /// The leader epoch of the last batch before it, or -1.
    pushed_epoch: i32,
}

/// An answer's part that says something of a partition, and what was asked.
struct Answer {
    wanted: Wanted,
    data: PartitionData,
    scan: Result<Scan, DecodeError>,
}

fn error_event(wanted: &Wanted, data: &PartitionData, node_id: i32) -> Event {
    let (leader_id, leader_epoch) = data.current_leader.unwrap_or((NONE, NONE));
    Event::FetchError {
        handle: wanted.handle,
        epoch: wanted.epoch,
        error_code: data.error_code,
        fetch_offset: wanted.offset,
        leader_id,
        leader_epoch,
        node_id,
    }
}

/// What an answer says of one partition.
enum Verdict {
    /// Records to decode.
    Data,
    /// Something that the engine has to deal with, the partition being suspended: an error code, if true.
    Event(Event, bool),
    /// No records, but the next request says something else.
    Moved,
    /// No records.
    Nothing,
    /// It was asked for under other circumstances.
    Stale,
}

/// The leader's log has other records before the offset that was asked for. Where it does reach that offset under an older
/// epoch, nothing was lost: the newer epoch had no record, and the older one is the last that was fetched.
fn diverge(partition: &mut Partition, wanted: &Wanted, diverging: DivergingEpoch) -> Verdict {
    let DivergingEpoch { epoch, end_offset } = diverging;
    if end_offset >= wanted.offset {
        partition.fetch_epoch = match epoch < wanted.last_fetched_epoch {
            true => epoch,
            false => NONE, // Makes no sense; asking without an epoch is what always works.
        };
        return Verdict::Moved;
    }
    partition.is_diverged = true;
    let event = Event::Diverging {
        handle: wanted.handle,
        epoch: wanted.epoch,
        diverging_epoch: epoch,
        end_offset,
    };
    Verdict::Event(event, false)
}

/// An answer without records; perhaps because a follower is nearer (KIP-392).
fn prefer(partition: &mut Partition, wanted: &Wanted, node_id: i32) -> Verdict {
    if node_id < 0 || node_id == partition.source() {
        return Verdict::Nothing;
    }
    partition.is_suspended = true;
    let event = Event::PreferredReplica {
        handle: wanted.handle,
        epoch: wanted.epoch,
        node_id,
    };
    Verdict::Event(event, false)
}

pub(crate) struct FetchLoop {
    pub shared: Arc<Shared>,
    pub number: u64,
    pub node_id: i32,
    pub connection_id: i64,
    pub version: i16,
    pub signal: Arc<Signal>,
    session: Session,
    /// Until its first request, which begins with all partitions of the node, whatever changed.
    is_new: bool,
    /// Answers in a row that lost the session.
    losses: u32,
    asked_version: i16,
    /// When the last request was made.
    asked_at: Instant,
    work: VecDeque<PartitionWork>,
    /// Decoded, of the first partition in `work`, without room yet.
    pending: Option<Entry>,
    /// No request before: the broker throttles, or the engine is still naming partitions.
    quiet_until: Option<Instant>,
}

impl FetchLoop {
    pub fn new(
        shared: Arc<Shared>,
        number: u64,
        node_id: i32,
        connection_id: i64,
        version: i16,
        signal: Arc<Signal>,
        left_session: i32,
    ) -> Self {
        Self {
            shared,
            number,
            node_id,
            connection_id,
            version,
            signal,
            session: Session::new(left_session),
            is_new: true,
            losses: 0,
            asked_version: version,
            asked_at: Instant::now(),
            work: VecDeque::new(),
            pending: None,
            quiet_until: None,
        }
    }

    /// The next request, of what changed since the last one.
    fn plan(&mut self, table: &mut Table) -> Option<FetchPlan> {
        let is_seated = self.is_seated(table);
        let node = table.nodes.get_mut(&self.node_id);
        let node = node.filter(|node| is_seated && !node.rests)?;
        let mut changed = node.take_changed();
        if std::mem::take(&mut self.is_new) {
            changed.extend(node.order.values());
        }
        for handle in changed {
            let wanted = table.wanted(handle, self.node_id, self.number);
            self.session.note(handle, wanted);
        }
        let node = table.nodes.get_mut(&self.node_id)?;
        let plan = self
            .session
            .next(node.order.values().copied(), self.version)?;
        node.fetches += 1;
        Some(plan)
    }

    /// Pairs an answer's partitions with what was asked.
    fn matching(&self, frame: &Bytes) -> Result<(response::Response, Vec<Answer>), String> {
        let mut answers = Vec::new();
        let mut repeated = 0_usize;
        let response = response::read(frame, self.asked_version, |topic, data| {
            let Some(wanted) = self.session.find(topic, data.partition) else {
                return;
            };
            // One partition again and again would take many times the memory of the frame.
            if answers.len() == self.session.partitions() {
                repeated += 1;
                return;
            }
            let scan = batch::scan(&data.records);
            answers.push(Answer {
                wanted: wanted.clone(),
                data,
                scan,
            });
        });
        let version = self.asked_version;
        match response {
            Ok(response) if repeated == 0 => Ok((response, answers)),
            Ok(_) => Err(format!(
                "its Fetch response (version {version}) names partitions more than once"
            )),
            Err(flaw) => Err(format!(
                "its Fetch response (version {version}) cannot be read: {flaw}"
            )),
        }
    }

    /// Takes note of what the answer says of each partition; what is to be decoded becomes `work`.
    fn accept(&mut self, answers: Vec<Answer>) {
        let shared = Arc::clone(&self.shared);
        let mut events = Vec::new();
        let mut had_data = Vec::new();
        let mut bytes = 0;
        let mut table = shared.table();
        for answer in answers {
            let handle = answer.wanted.handle;
            bytes += answer.data.records.len();
            match self.accept_one(&mut table, answer) {
                Verdict::Event(event, is_error) => {
                    add(&shared.stats.errors, usize::from(is_error));
                    events.push(event);
                }
                Verdict::Data => had_data.push(handle),
                Verdict::Nothing => continue,
                Verdict::Moved => {}
                Verdict::Stale => add(&shared.stats.stale, 1),
            }
            table.touch(handle);
        }
        if let Some(node) = table.nodes.get_mut(&self.node_id) {
            node.bytes += bytes as u64;
        }
        if !self.session.is_open() {
            table.rotate(self.node_id, &had_data);
        }
        drop(table);
        add(&shared.stats.fetch_bytes, bytes);
        for event in events {
            shared.events.push(event);
        }
    }

    fn accept_one(&mut self, table: &mut Table, answer: Answer) -> Verdict {
        let Answer { wanted, data, scan } = answer;
        let (handle, epoch) = (wanted.handle, wanted.epoch);
        let current = table.partitions.get_mut(&handle).filter(|partition| {
            // The offset: another broker may have been asked meanwhile, and have answered first. The source: what one says
            // that is asked no more, but for records, is no news.
            partition.epoch == epoch
                && partition.fetch_offset == wanted.offset
                && !partition.is_failed
                && !partition.is_diverged
                && (!data.records.is_empty() || partition.source() == self.node_id)
        });
        let Some(partition) = current else {
            return Verdict::Stale;
        };
        if data.error_code != 0 {
            partition.is_suspended = true;
            return Verdict::Event(error_event(&wanted, &data, self.node_id), true);
        }
        if let Some(diverging) = data.diverging_epoch {
            return diverge(partition, &wanted, diverging);
        }
        partition.high_watermark = data.high_watermark;
        partition.last_stable_offset = data.last_stable_offset;
        partition.log_start_offset = data.log_start_offset;
        if data.records.is_empty() {
            return prefer(partition, &wanted, data.preferred_read_replica);
        }
        let epoch_before = partition.fetch_epoch;
        match scan {
            Ok(Scan {
                next_offset: Some(next),
                ..
            }) if next <= wanted.offset => {
                return Verdict::Nothing;
            }
            Ok(Scan {
                next_offset: Some(next),
                batches,
                last_leader_epoch,
                ..
            }) => {
                add(&self.shared.stats.batches, batches);
                partition.fetch_offset = next;
                partition.fetch_epoch = last_leader_epoch;
            }
            // The decoder tells what is wrong, after the records that stand before it.
            Ok(Scan {
                next_offset: None, ..
            })
            | Err(_) => partition.awaits_failure = true,
        }
        partition.decoded_by = Some(self.number);
        let config = &self.shared.config;
        let aborted = config.reads_committed().then_some(data.aborted);
        let records = data.records;
        self.work.push_back(PartitionWork {
            handle,
            epoch,
            decoder: Decoder::new(records.clone(), wanted.offset, &config.decode, aborted),
            records,
            pushed_offset: wanted.offset,
            // Not the one that was asked with: a follower is told none.
            pushed_epoch: epoch_before,
        });
        Verdict::Data
    }

    /// The entry that comes next of the first partition, or None once it is through.
    fn decode_next(&mut self) -> Option<Entry> {
        let soft_limit = self.shared.config.chunk_bytes();
        let work = self.work.front_mut()?;
        let (handle, epoch) = (work.handle, work.epoch);
        let entry = |item| {
            Some(Entry {
                handle,
                epoch,
                item,
            })
        };
        match work.decoder.next_chunk(soft_limit) {
            Ok(Some(chunk)) => {
                let next_offset = work.decoder.next_offset();
                entry(Item::Records {
                    chunk: Arc::new(chunk),
                    cursor: 0,
                    next_offset,
                })
            }
            Ok(None) => {
                let next_offset = work.decoder.next_offset();
                let leader_epoch = work.decoder.leader_epoch();
                let marker = Item::Marker {
                    next_offset,
                    leader_epoch,
                };
                (next_offset > work.pushed_offset).then(|| entry(marker))?
            }
            Err(error) => {
                let stats = &self.shared.stats;
                add(&stats.decode_failures, 1);
                if error.kind == DecodeErrorKind::Corrupt && error.message.contains("checksum") {
                    add(&stats.crc_failures, 1);
                }
                let past = super::offset_past(&work.records, work.decoder.remaining_bytes());
                entry(Item::Failure(Failure::Decode {
                    error: Arc::new(error),
                    past,
                }))
            }
        }
    }

    /// Puts an entry into the buffer; back with it if there is no room.
    fn push(&mut self, entry: Entry) -> Result<(), Entry> {
        let shared = Arc::clone(&self.shared);
        let mut table = shared.table();
        if !table.is_current(entry.handle, entry.epoch) {
            drop(table);
            self.drop_first();
            return Ok(());
        }
        if !table.has_room_for(&entry, &self.signal) {
            add(&shared.stats.full_waits, 1);
            return Err(entry);
        }
        let is_last = match &entry.item {
            Item::Records {
                next_offset, chunk, ..
            } => {
                add(&shared.stats.chunks, 1);
                add(&shared.stats.records, chunk.len());
                self.pushed_up_to(*next_offset);
                false
            }
            Item::Marker { next_offset, .. } => {
                self.pushed_up_to(*next_offset);
                false
            }
            Item::Failure(_) => {
                if let Some(partition) = table.partitions.get_mut(&entry.handle) {
                    partition.is_failed = true;
                }
                true
            }
        };
        let (handle, epoch) = (entry.handle, entry.epoch);
        table.buffer.push(entry);
        if is_last {
            table.touch(handle);
            table.release(handle, epoch, self.number);
            self.work.pop_front();
        }
        shared.wake_poll(table);
        Ok(())
    }

    fn pushed_up_to(&mut self, next_offset: i64) {
        if let Some(work) = self.work.front_mut() {
            work.pushed_offset = next_offset;
            work.pushed_epoch = work.decoder.leader_epoch();
        }
    }

    /// The first partition is through, or nobody wants it any more.
    fn drop_first(&mut self) {
        if let Some(work) = self.work.pop_front() {
            self.shared
                .table()
                .release(work.handle, work.epoch, self.number);
        }
    }

    fn abandon(&mut self) {
        self.pending = None;
        if self.work.is_empty() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut table = shared.table();
        for work in self.work.drain(..) {
            let pushed = (work.pushed_offset, work.pushed_epoch);
            table.roll_back(work.handle, work.epoch, self.number, pushed);
        }
    }

    /// A whole response failed. A lost session costs a full request, the second time in a row after a pause; any other error
    /// is the engine's.
    fn refused(&mut self, error_code: i16) {
        add(&self.shared.stats.errors, 1);
        let lost = self.session.failed(error_code);
        if lost == Lost::No {
            if let Some(node) = self.shared.table().nodes.get_mut(&self.node_id) {
                node.rests = true;
            }
        } else {
            add(&self.shared.stats.session_resets, 1);
            if self.losses > 0 {
                let pause = Instant::now().checked_add(PAUSE_AFTER_LOSSES);
                self.quiet_until = self.quiet_until.max(pause);
            }
            self.losses += 1;
        }
        if lost != Lost::Reset {
            let connection = self.connection_id;
            self.shared.events.push(Event::FetchNodeError {
                connection,
                error_code,
            });
        }
    }

    fn is_seated(&self, table: &Table) -> bool {
        table.has_seat(self.node_id, self.number)
    }
}

impl Rider for FetchLoop {
    fn request(&mut self, correlation_id: i32) -> Option<Vec<u8>> {
        if self.quiet_until.is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let mut table = shared.table();
        let node = table.nodes.get_mut(&self.node_id);
        self.quiet_until = node.and_then(Node::settles_at);
        if self.quiet_until.is_some() {
            return None;
        }
        let plan = self.plan(&mut table)?;
        let node = table.nodes.get(&self.node_id);
        let config = &shared.config;
        let rack = match node.is_some_and(Node::names_rack) {
            true => &*config.client_rack,
            false => "",
        };
        drop(table);
        self.asked_version = plan.version;
        self.asked_at = Instant::now();
        add(&shared.stats.fetches, 1);
        add(&shared.stats.partitions_asked, plan.wanted.len());
        Some(request::encode(&plan, correlation_id, config, rack))
    }

    fn response(&mut self, frame: Bytes) -> Result<(), String> {
        let stats = &self.shared.stats;
        add(&stats.responses, 1);
        add(&stats.bytes, frame.len());
        let latency_us = u64::try_from(self.asked_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        measure(
            &stats.fetch_latency_us_total,
            &stats.fetch_latency_us_max,
            latency_us,
        );
        if !self.is_seated(&self.shared.table()) {
            return Ok(());
        }
        let (response, answers) = self.matching(&frame)?;
        if let Ok(ms @ 1..) = u64::try_from(response.throttle_time_ms) {
            measure(&stats.throttle_ms_total, &stats.throttle_ms_max, ms);
            if self.asked_version >= CLIENT_THROTTLES_FROM {
                self.quiet_until = Instant::now().checked_add(Duration::from_millis(ms));
            }
        }
        if response.error_code != 0 {
            self.refused(response.error_code);
            return Ok(());
        }
        self.session.answered(response.session_id);
        self.losses = 0;
        self.accept(answers);
        if frame.len() <= SMALL_FRAME_BYTES {
            while self.work() == Work::More {}
        }
        Ok(())
    }

    fn work(&mut self) -> Work {
        if self.work.is_empty() {
            return Work::Idle;
        }
        if !self.is_seated(&self.shared.table()) {
            self.abandon();
            return Work::Idle;
        }
        let Some(entry) = self.pending.take().or_else(|| self.decode_next()) else {
            self.drop_first();
            return Work::More;
        };
        match self.push(entry) {
            Ok(()) => Work::More,
            Err(entry) => {
                self.pending = Some(entry);
                Work::Blocked
            }
        }
    }

    fn response_timeout(&self) -> Duration {
        let wait =
            Duration::from_millis(u64::try_from(self.shared.config.max_wait_ms).unwrap_or(0));
        self.shared.config.request_timeout + wait
    }

    fn wake_at(&self) -> Option<Instant> {
        self.quiet_until
    }
}

impl Drop for FetchLoop {
    fn drop(&mut self) {
        self.abandon();
        let mut table = self.shared.table();
        if let Some(node) = table.nodes.get_mut(&self.node_id) {
            node.left_session = self.session.id();
            if node.seat().is_some_and(|seat| seat.rider == self.number) {
                node.leave_seat();
            }
        }
        drop(table);
        self.shared.loops.fetch_sub(1, Ordering::Relaxed);
    }
}
