//! A fetch session (KIP-227): what the broker has been told, so that a request lists only what changed since, and an answer
//! only what is new. Both cost what changed, however many partitions stand still.
//!
//! Source: KIP-227; Kafka's `FetchSessionHandler` and `FetchSession.scala`, whose rules it keeps:
//!
//! | asked | answered | then |
//! | --- | --- | --- |
//! | (0, 0) or (id, 0): all partitions, a new session in place of id | session id n | (n, 1) |
//! | | session id 0: the broker's cache is full | (0, 0): everything again each time |
//! | (id, epoch): what changed | the same id | (id, epoch + 1), after the greatest 1 |
//! | | `FETCH_SESSION_ID_NOT_FOUND`, or session id 0 | (0, 0) |
//! | | any other error | (id, 0) |

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::request::{FetchPlan, TOPIC_IDS_FROM, Wanted};
use super::response::TopicKey;

const NO_SESSION: i32 = 0;
const FULL: i32 = 0;
const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
const UNKNOWN_TOPIC_ID: i16 = 100;
const INCONSISTENT_TOPIC_ID: i16 = 103;
const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;

/// A partition as a request of this session names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    Name(Arc<str>, i32),
    Id([u8; 16], i32),
}

/// What becomes of a session after an error of a whole response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The error is none of sessions.
    No,
    /// A full request mends it.
    Reset,
    /// A full request, perhaps with other topic ids: metadata is old.
    ResetAndRefresh,
}

/// Handles by place. Only one of the maps is in use, as requests name topics either way.
#[derive(Debug, Default)]
struct Places {
    names: HashMap<Arc<str>, HashMap<i32, u64>>,
    ids: HashMap<[u8; 16], HashMap<i32, u64>>,
}

impl Places {
    fn get(&self, topic: &TopicKey<'_>, partition: i32) -> Option<u64> {
        let partitions = match topic {
            TopicKey::Name(name) => self.names.get(*name),
            TopicKey::Id(id) => self.ids.get(id),
        };
        partitions?.get(&partition).copied()
    }

    fn insert(&mut self, place: &Place, handle: u64) {
        match place {
            Place::Name(name, partition) => self
                .names
                .entry(Arc::clone(name))
                .or_default()
                .insert(*partition, handle),
            Place::Id(id, partition) => self.ids.entry(*id).or_default().insert(*partition, handle),
        };
    }

    /// Removes a place if it is this handle's.
    fn remove(&mut self, place: &Place, handle: u64) -> bool {
        let (partitions, partition) = match place {
            Place::Name(name, partition) => (self.names.get_mut(name), partition),
            Place::Id(id, partition) => (self.ids.get_mut(id), partition),
        };
        let Some(partitions) = partitions.filter(|p| p.get(partition) == Some(&handle)) else {
            return false;
        };
        partitions.remove(partition);
        if partitions.is_empty() {
            match place {
                Place::Name(name, _) => drop(self.names.remove(name)),
                Place::Id(id, _) => drop(self.ids.remove(id)),
            }
        }
        true
    }
}

/// Belongs to one fetch loop, which has one request outstanding at most: `known` is what that request asked for.
#[derive(Debug)]
pub(crate) struct Session {
    id: i32,
    /// Of the next request; FULL: it lists everything.
    epoch: i32,
    /// Topics go by their ids.
    by_ids: bool,
    /// What the broker knows, or will with the next request.
    known: HashMap<u64, Wanted>,
    places: Places,
    /// Partitions in `known` whose topic's id is not known.
    without_id: usize,
    /// Of `known`, what the broker has not heard yet.
    to_list: HashSet<u64>,
    /// What the broker knows and should not. Disjoint from the places of `known`: of a partition that a request both lists and
    /// forgets, the broker forgets it.
    to_forget: HashSet<Place>,
}

impl Session {
    /// `left` is a session of this broker that nobody uses any more, or 0: the first request ends it.
    pub fn new(left: i32) -> Self {
        Self {
            id: left,
            epoch: FULL,
            by_ids: false,
            known: HashMap::new(),
            places: Places::default(),
            without_id: 0,
            to_list: HashSet::new(),
            to_forget: HashSet::new(),
        }
    }

    /// The broker's number of it; 0 without one.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// How many partitions an answer may name.
    pub fn partitions(&self) -> usize {
        self.known.len()
    }

    /// The broker keeps the order of partitions, and turns it round itself.
    pub fn is_open(&self) -> bool {
        self.epoch != FULL
    }

    fn place(&self, wanted: &Wanted) -> Place {
        if self.by_ids {
            Place::Id(wanted.topic_id, wanted.partition)
        } else {
            Place::Name(Arc::clone(&wanted.topic), wanted.partition)
        }
    }

    /// What is wanted of a partition now; None: nothing.
    pub fn note(&mut self, handle: u64, wanted: Option<Wanted>) {
        let by_ids = self.by_ids;
        match (self.known.get_mut(&handle), wanted) {
            (None, None) => {}
            (Some(before), Some(wanted)) if before.is_named_as(&wanted, by_ids) => {
                if !before.asks_the_same_as(&wanted) {
                    self.to_list.insert(handle);
                }
                self.without_id += usize::from(!wanted.has_topic_id());
                self.without_id -= usize::from(!before.has_topic_id());
                *before = wanted;
            }
            (_, wanted) => {
                self.remove(handle);
                if let Some(wanted) = wanted {
                    self.insert(handle, wanted);
                }
            }
        }
    }

    fn insert(&mut self, handle: u64, wanted: Wanted) {
        let place = self.place(&wanted);
        self.places.insert(&place, handle);
        self.to_forget.remove(&place);
        self.to_list.insert(handle);
        self.without_id += usize::from(!wanted.has_topic_id());
        self.known.insert(handle, wanted);
    }

    fn remove(&mut self, handle: u64) {
        let Some(before) = self.known.remove(&handle) else {
            return;
        };
        let place = self.place(&before);
        self.without_id -= usize::from(!before.has_topic_id());
        self.to_list.remove(&handle);
        // A partition that was assigned anew has its place already, under another handle.
        if self.places.remove(&place, handle) {
            self.to_forget.insert(place);
        }
    }

    /// The next request, or None where nothing is wanted. `order` gives all handles of the broker, for a request that lists
    /// everything; `highest` is the version to speak where every topic has an id.
    pub fn next(&mut self, order: impl Iterator<Item = u64>, highest: i16) -> Option<FetchPlan> {
        if self.known.is_empty() {
            return None;
        }
        let by_ids = highest >= TOPIC_IDS_FROM && self.without_id == 0;
        if by_ids != self.by_ids {
            self.name_topics(by_ids);
        }
        let (wanted, forgotten) = if self.epoch == FULL {
            self.to_list.clear();
            self.to_forget.clear();
            let all = order.filter_map(|handle| self.known.get(&handle).cloned());
            (all.collect(), Vec::new())
        } else {
            let news = self.to_list.drain();
            let mut news: Vec<_> = news.filter_map(|handle| self.known.get(&handle)).collect();
            news.sort_unstable_by_key(|wanted| (&wanted.topic, wanted.topic_id, wanted.partition));
            let mut forgotten: Vec<_> = self.to_forget.drain().collect();
            forgotten.sort_unstable();
            (news.into_iter().cloned().collect(), forgotten)
        };
        Some(FetchPlan {
            version: if by_ids {
                highest
            } else {
                highest.min(TOPIC_IDS_FROM - 1)
            },
            session_id: self.id,
            session_epoch: self.epoch,
            wanted,
            forgotten,
        })
    }

    /// A session holds to one way of naming topics; the other way begins with a full request, which ends it.
    fn name_topics(&mut self, by_ids: bool) {
        self.by_ids = by_ids;
        self.epoch = FULL;
        self.places = Places::default();
        let places: Vec<_> = self
            .known
            .iter()
            .map(|(&h, w)| (h, self.place(w)))
            .collect();
        for (handle, place) in places {
            self.places.insert(&place, handle);
        }
    }

    /// What was asked of a partition that is answered.
    pub fn find(&self, topic: &TopicKey<'_>, partition: i32) -> Option<&Wanted> {
        self.known.get(&self.places.get(topic, partition)?)
    }

    /// The last request was answered without an error.
    pub fn answered(&mut self, session_id: i32) {
        if session_id == NO_SESSION {
            self.restart(NO_SESSION);
        } else if self.epoch == FULL {
            (self.id, self.epoch) = (session_id, 1);
        } else {
            self.epoch = self.epoch.checked_add(1).unwrap_or(1);
        }
    }

    /// The last request was answered with an error of the whole response.
    pub fn failed(&mut self, error_code: i16) -> Lost {
        let id = match error_code {
            FETCH_SESSION_ID_NOT_FOUND => NO_SESSION,
            _ => self.id,
        };
        self.restart(id);
        match error_code {
            FETCH_SESSION_ID_NOT_FOUND | INVALID_FETCH_SESSION_EPOCH => Lost::Reset,
            UNKNOWN_TOPIC_ID | INCONSISTENT_TOPIC_ID | FETCH_SESSION_TOPIC_ID_ERROR => {
                Lost::ResetAndRefresh
            }
            _ => Lost::No,
        }
    }

    fn restart(&mut self, id: i32) {
        (self.id, self.epoch) = (id, FULL);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const ID: [u8; 16] = [7; 16];

    fn wanted(handle: u64, partition: i32, offset: i64) -> Wanted {
        Wanted {
            handle,
            epoch: 1,
            topic: "t".into(),
            topic_id: ID,
            partition,
            offset,
            leader_epoch: 3,
            last_fetched_epoch: -1,
        }
    }

    fn place_in(plan: &FetchPlan, w: &Wanted) -> Place {
        match plan.version >= TOPIC_IDS_FROM {
            true => Place::Id(w.topic_id, w.partition),
            false => Place::Name(Arc::clone(&w.topic), w.partition),
        }
    }

    /// What a broker makes of requests. Source: `FetchSession.update` of Kafka: it forgets last.
    #[derive(Default)]
    struct Broker {
        session: BTreeMap<Place, i64>,
        id: i32,
        epoch: i32,
    }

    impl Broker {
        fn hear(&mut self, plan: &FetchPlan, new_id: i32) -> Result<i32, i16> {
            if plan.session_epoch == FULL {
                assert!(plan.forgotten.is_empty());
                self.session.clear();
                (self.id, self.epoch) = (new_id, 1);
            } else if plan.session_id != self.id {
                return Err(FETCH_SESSION_ID_NOT_FOUND);
            } else if plan.session_epoch != self.epoch {
                return Err(INVALID_FETCH_SESSION_EPOCH);
            } else {
                self.epoch += 1;
            }
            for wanted in &plan.wanted {
                self.session.insert(place_in(plan, wanted), wanted.offset);
            }
            for place in &plan.forgotten {
                self.session.remove(place);
            }
            Ok(self.id)
        }
    }

    #[test]
    fn the_epoch_begins_anew_after_the_greatest() {
        let mut session = Session::new(0);
        session.note(1, Some(wanted(1, 0, 0)));
        assert_eq!(session.next([1].into_iter(), 17).unwrap().session_epoch, 0);
        session.answered(5);
        session.epoch = i32::MAX;
        let plan = session.next([1].into_iter(), 17).unwrap();
        assert_eq!((plan.session_id, plan.session_epoch), (5, i32::MAX));
        session.answered(5);
        assert_eq!(session.next([1].into_iter(), 17).unwrap().session_epoch, 1);
    }

    #[test]
    fn what_is_listed_is_not_forgotten_in_whatever_order_the_news_come() {
        for assigned_first in [false, true] {
            let mut session = Session::new(0);
            session.note(1, Some(wanted(1, 0, 0)));
            session.next([1].into_iter(), 17);
            session.answered(5);
            if assigned_first {
                session.note(2, Some(wanted(2, 0, 9)));
                session.note(1, None);
            } else {
                session.note(1, None);
                session.note(2, Some(wanted(2, 0, 9)));
            }
            let plan = session.next([2].into_iter(), 17).unwrap();
            assert_eq!(plan.wanted, [wanted(2, 0, 9)]);
            assert_eq!(plan.forgotten, []);
            assert_eq!(session.find(&TopicKey::Id(ID), 0), Some(&wanted(2, 0, 9)));
        }
    }

    #[test]
    fn errors_that_are_none_of_sessions_say_so() {
        let mut session = Session::new(4);
        assert_eq!(session.failed(29), Lost::No);
        assert_eq!(session.failed(71), Lost::Reset);
        assert_eq!(session.id(), 4);
        assert_eq!(session.failed(106), Lost::ResetAndRefresh);
        assert_eq!(session.failed(70), Lost::Reset);
        assert_eq!(session.id(), 0);
    }

    /// Asks until the broker has taken it, which a lost session costs one more request.
    fn ask(
        session: &mut Session,
        broker: &mut Broker,
        truth: &BTreeMap<u64, Wanted>,
        new_id: i32,
    ) -> Result<(), TestCaseError> {
        for _ in 0..2 {
            let Some(plan) = session.next(truth.keys().copied(), 17) else {
                prop_assert!(truth.is_empty());
                return Ok(());
            };
            match broker.hear(&plan, new_id) {
                Err(code) => prop_assert_ne!(session.failed(code), Lost::No),
                Ok(id) => {
                    session.answered(id);
                    return agree(session, broker, truth, &plan);
                }
            }
        }
        Err(TestCaseError::fail("a full request was refused"))
    }

    fn agree(
        session: &Session,
        broker: &Broker,
        truth: &BTreeMap<u64, Wanted>,
        plan: &FetchPlan,
    ) -> Result<(), TestCaseError> {
        let places = truth.values().map(|w| (place_in(plan, w), w.offset));
        prop_assert_eq!(&broker.session, &places.collect());
        for (&handle, w) in truth {
            let key = match place_in(plan, w) {
                Place::Id(id, _) => TopicKey::Id(id),
                Place::Name(..) => TopicKey::Name(&w.topic),
            };
            let found = session.find(&key, w.partition);
            prop_assert_eq!(found.map(|w| w.handle), Some(handle));
        }
        Ok(())
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Handle, offset; a topic id or none.
        Want(u64, i64, bool),
        Drop(u64),
        /// A partition under another handle.
        Reassign(u64, i64),
        Ask,
        /// The broker forgets the session, or has none to give.
        Forget,
        Full,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..6_u64, 0..50_i64, prop::bool::weighted(0.9)).prop_map(|(h, o, i)| Step::Want(h, o, i)),
            3 => (0..6_u64).prop_map(Step::Drop),
            2 => (0..6_u64, 0..50_i64).prop_map(|(h, o)| Step::Reassign(h, o)),
            6 => Just(Step::Ask),
            1 => Just(Step::Forget),
            1 => Just(Step::Full),
        ];
        prop::collection::vec(step, 1..80)
    }

    proptest! {
        /// Whatever changes, is lost or refused: once a request was taken, the broker knows exactly what is wanted.
        #[test]
        fn the_broker_knows_what_is_wanted(steps in steps()) {
            let mut session = Session::new(0);
            let mut broker = Broker::default();
            let mut truth: BTreeMap<u64, Wanted> = BTreeMap::new();
            let mut handles: [u64; 6] = [0, 1, 2, 3, 4, 5];
            let mut next_handle = 10;
            for (number, step) in steps.into_iter().chain([Step::Ask]).enumerate() {
                let new_id = number as i32 + 1;
                match step {
                    Step::Want(n, offset, has_id) => {
                        let handle = handles[n as usize];
                        let mut now = wanted(handle, n as i32, offset);
                        if !has_id {
                            now.topic_id = [0; 16];
                        }
                        truth.insert(handle, now.clone());
                        session.note(handle, Some(now));
                    }
                    Step::Drop(n) => {
                        let handle = handles[n as usize];
                        truth.remove(&handle);
                        session.note(handle, None);
                    }
                    Step::Reassign(n, offset) => {
                        let before = std::mem::replace(&mut handles[n as usize], next_handle);
                        truth.remove(&before);
                        let now = wanted(next_handle, n as i32, offset);
                        truth.insert(next_handle, now.clone());
                        session.note(next_handle, Some(now));
                        session.note(before, None);
                        next_handle += 1;
                    }
                    Step::Forget => broker.id = -1,
                    Step::Full => {
                        if session.next(truth.keys().copied(), 17).is_some() {
                            session.answered(0);
                        }
                    }
                    Step::Ask => ask(&mut session, &mut broker, &truth, new_id)?,
                }
            }
        }
    }
}
