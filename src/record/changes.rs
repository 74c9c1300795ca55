//! What a request did to a session, and doing it again on another record.
//!
//! This request's change against what another request did to the same value key meanwhile, where "another" committed first:
//!
//! | this request | another set the key | another removed the key | another cleared the session |
//! | --- | --- | --- | --- |
//! | `set` | this value | this value | this value |
//! | `update` | runs again on the other's value | runs again on nothing | runs again on nothing |
//! | `remove`, seen or not | removed | removed | removed |
//! | `clear`, seen or not | gone | gone | gone |
//! | no change | the other's value | removed | gone |
//!
//! If a commit writes anything it replays the whole list: also a `set` to the value that was seen, and a `remove` or `clear`
//! that found nothing. If the whole list changes nothing of the record it is compared with, nothing is written, and what
//! another request wrote later stays. An `update` after a `set`, `remove` or `clear` of the same list builds on that.
use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Record,
    head::{Head, HeadChanges, Owner},
    json,
    values::{EncodedValue, Values},
};
use crate::{cache::Version, error::SessionError};

/// The closures that a list keeps: each of them runs again at every replay.
const MAX_UPDATES: usize = 1000;

/// An `update` closure: from the JSON under the value key to the JSON that should be there.
pub(crate) type Run = Box<dyn FnMut(Option<&[u8]>) -> Result<Option<Bytes>, SessionError> + Send>;

/// Tells an `update` that is computed at the commit from the others, so that it can be withdrawn.
pub(crate) type Tag = u64;

/// The version of the record that a list of changes was computed on; `None` for a session that is not stored.
pub(crate) type Identity = Option<Version>;

/// The changes of a session in their order, of which only those are kept that still matter.
#[derive(Default)]
pub(crate) struct Changes {
    /// What the list was computed on: on any other record it is replayed before it counts.
    pub(crate) on: Identity,
    /// What comes of the list on that record.
    effect: Effect,
    /// What most lists do not need.
    replay: Option<Box<Replay>>,
}

/// What comes about anew on another record.
#[derive(Default)]
pub(crate) struct Replay {
    /// How a value comes about that depends on the record.
    steps: BTreeMap<Box<str>, Vec<Step>>,
    /// All that the record has goes first.
    clear: bool,
    login: Option<Box<Login>>,
    updates: usize,
    /// Of no use any more. The closures are the user's, so they are dropped where no lock is held.
    discarded: Vec<Step>,
}

/// The first login of a list whose owner only the record can tell whether it is another one.
struct Login {
    owner: Owner,
    /// The owner before it, where the list itself had set one.
    before: Option<Option<Box<str>>>,
}

/// The values that differ from those of the record, and the settings.
#[derive(Clone, Default)]
pub(crate) struct Effect {
    /// None of the record's values stay.
    cleared: bool,
    /// `None`: removed.
    values: BTreeMap<Box<str>, Option<Bytes>>,
    head: Option<Box<HeadChanges>>,
}

struct Step {
    change: Change,
    /// Made before the login of this list: dropped with the data of another owner.
    before_login: bool,
}

enum Change {
    Set(Bytes),
    Remove,
    /// The mutex is never locked: it lets a list be lent to the tasks of a runtime.
    Update(Mutex<Run>, Option<Tag>),
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.effect.is_empty()
    }

    pub(crate) fn effect(&self) -> &Effect {
        &self.effect
    }

    /// A value that does not depend on the record; `None` removes it.
    pub(crate) fn set(&mut self, key: &str, json: Option<Bytes>) {
        if let Some(replay) = &mut self.replay
            && let Some(mut steps) = replay.steps.remove(key)
        {
            // The caller of an update at the commit waits for what it makes.
            let is_awaited = |step: &Step| matches!(step.change, Change::Update(_, Some(_)));
            let awaited = steps.iter().rposition(is_awaited).map_or(0, |last| last + 1);
            let needless = steps.split_off(awaited);
            replay.updates -= needless.iter().filter(|step| step.change.is_update()).count();
            replay.discarded.extend(needless);
            if awaited > 0 {
                steps.push(Step::of(Change::to(&json)));
                replay.steps.insert(key.into(), steps);
            }
        }
        self.effect.values.insert(key.into(), json);
    }

    /// Takes in what `run` made of the present value.
    pub(crate) fn update(&mut self, key: &str, json: Option<Bytes>, run: Run) -> Result<(), SessionError> {
        // This list has decided the present value, so that the closure need not run again.
        let replay = self.replay.get_or_insert_default();
        let is_certain = replay.clear || self.effect.values.contains_key(key);
        if !is_certain || replay.steps.contains_key(key) {
            return self.push_update(key, json, run, None);
        }
        replay.discarded.push(Step::of(Change::Update(Mutex::new(run), None)));
        self.set(key, json);
        Ok(())
    }

    /// A change that is computed at the commit, on the record that is then stored; until then the handler sees `present`.
    pub(crate) fn update_at_commit(
        &mut self,
        key: &str,
        present: Option<Bytes>,
        run: Run,
        tag: Tag,
    ) -> Result<(), SessionError> {
        self.push_update(key, present, run, Some(tag))?;
        self.on = unknown();
        Ok(())
    }

    fn push_update(&mut self, key: &str, json: Option<Bytes>, run: Run, tag: Option<Tag>) -> Result<(), SessionError> {
        if self.replay.get_or_insert_default().updates >= MAX_UPDATES {
            return Err(SessionError::TooManyUpdates { limit: MAX_UPDATES });
        }
        self.push(key, Step::of(Change::Update(Mutex::new(run), tag)), json);
        Ok(())
    }

    fn push(&mut self, key: &str, step: Step, json: Option<Bytes>) {
        let replay = self.replay.get_or_insert_default();
        replay.updates += usize::from(step.change.is_update());
        match replay.steps.get_mut(key) {
            Some(steps) => steps.push(step),
            None => {
                let before = self.effect.values.get(key).map(|json| Step::of(Change::to(json)));
                replay.steps.insert(key.into(), before.into_iter().chain([step]).collect());
            }
        }
        self.effect.values.insert(key.into(), json);
    }

    pub(crate) fn clear(&mut self) {
        let replay = self.replay.get_or_insert_default();
        replay.discarded.extend(std::mem::take(&mut replay.steps).into_values().flatten());
        (replay.clear, replay.updates) = (true, 0);
        self.effect.cleared = true;
        self.effect.values.clear();
    }

    /// The settings, to be changed.
    pub(crate) fn head_mut(&mut self) -> &mut HeadChanges {
        self.effect.head.get_or_insert_default()
    }

    /// The time of a new owner is that of the commit: until then the session is not on the owner's list.
    pub(crate) fn stamp(&mut self, now: u64) {
        if let Some(head) = &mut self.effect.head
            && let Some(Some(owner)) = &mut head.owner
        {
            owner.stamp.at = now;
        }
    }

    /// Gives the session to `owner`, whose login is now. The data of another owner goes first, also where only a replay
    /// finds that there was one; `present` is the owner as far as it is known.
    pub(crate) fn log_in(&mut self, owner: Owner, present: Option<&str>) {
        let of_another = |present: Option<&str>| present.is_some_and(|present| present != &*owner.name);
        let set = self.head_mut().owner.as_ref().map(|owner| owner.as_ref().map(|owner| owner.name.clone()));
        let replay = self.replay.get_or_insert_default();
        match set {
            // This list has decided the owner, so that no replay can find another one.
            Some(set) => {
                let clears = of_another(set.as_deref());
                replay.login.get_or_insert_with(|| Box::new(Login { owner: owner.clone(), before: Some(set) }));
                if clears {
                    self.clear();
                }
            }
            None => {
                for (key, json) in &self.effect.values {
                    replay.steps.entry(key.clone()).or_insert_with(|| vec![Step::of(Change::to(json))]);
                }
                replay.steps.values_mut().flatten().for_each(|step| step.before_login = true);
                if of_another(present) {
                    self.effect.cleared = true;
                    self.effect.values.values_mut().for_each(|json| *json = None);
                }
                replay.login = Some(Box::new(Login { owner: owner.clone(), before: None }));
            }
        }
        let (login, owner) = (Some(owner.stamp.at), Some(Some(owner)));
        self.head_mut().then(HeadChanges { owner, login, authenticated: login, ..HeadChanges::default() });
    }

    /// Whether a value is known only after a replay on the stored record.
    pub(crate) fn depends_on_record(&self) -> bool {
        self.replay.as_ref().is_some_and(|replay| !replay.steps.is_empty())
    }

    pub(crate) fn is_on(&self, identity: Identity) -> bool {
        self.on == identity
    }

    /// Computes the list anew if it was computed on another record. Runs closures of the user.
    ///
    /// # Errors
    /// Those of the closures, and [`Panicked`](SessionError::Panicked): the list can then be replayed again.
    pub(crate) fn replay(&mut self, identity: Identity, record: &Record) -> Result<(), SessionError> {
        if self.is_on(identity) {
            return Ok(());
        }
        let Some(replay) = &mut self.replay else {
            self.on = identity;
            return Ok(());
        };
        let of_another = replay.login.as_ref().is_some_and(|login| {
            let before = login.before.as_ref().map_or_else(|| record.head.owner(), Option::as_deref);
            before.is_some_and(|before| before != &*login.owner.name)
        });
        let cleared = replay.clear || of_another;
        if replay.steps.is_empty() && self.effect.cleared == cleared {
            self.on = identity;
            return Ok(());
        }
        self.effect.cleared = cleared;
        for (key, steps) in &mut replay.steps {
            let mut json = if cleared { None } else { record.values.get(key) };
            for step in steps.iter_mut().filter(|step| !(of_another && step.before_login)) {
                json = match &mut step.change {
                    Change::Set(json) => Some(json.clone()),
                    Change::Remove => None,
                    // A closure that panics is one that fails: the commit that runs it goes on and returns the error.
                    Change::Update(run, _) => {
                        let run = run.get_mut().unwrap_or_else(PoisonError::into_inner);
                        match catch_unwind(AssertUnwindSafe(|| run(json.as_deref()))) {
                            Ok(result) => result?,
                            Err(_) => return Err(SessionError::Panicked),
                        }
                    }
                };
            }
            self.effect.values.insert(key.clone(), json);
        }
        self.on = identity;
        Ok(())
    }

    /// The two lists as one, `self` first.
    pub(crate) fn then(&mut self, later: Self) {
        if self.is_empty() {
            let earlier = std::mem::replace(self, later);
            return self.discard(earlier);
        }
        if later.is_empty() {
            return self.discard(later);
        }
        let (effect, replay) = (later.effect, *later.replay.unwrap_or_default());
        self.replay.get_or_insert_default().discarded.extend(replay.discarded);
        if replay.clear {
            self.clear();
        }
        let (before, after): (Vec<_>, Vec<_>) = replay
            .steps
            .into_iter()
            .flat_map(|(key, steps)| steps.into_iter().map(move |step| (key.clone(), step)))
            .partition(|(_, step)| step.before_login);
        let mut depends: Vec<Box<str>> = Vec::new();
        let append = |list: &mut Self, steps: Vec<(Box<str>, Step)>, depends: &mut Vec<Box<str>>| {
            for (key, step) in steps {
                let json = effect.values.get(&key).cloned().flatten();
                list.push(&key, Step { before_login: false, ..step }, json);
                depends.push(key);
            }
        };
        append(self, before, &mut depends);
        if let Some(login) = replay.login {
            let Login { owner, before: set } = *login;
            if let Some(set) = set {
                let owner = set.map(|name| Owner { name, stamp: owner.stamp });
                self.head_mut().owner = Some(owner);
            }
            self.log_in(owner, None);
        }
        append(self, after, &mut depends);
        if let Some(head) = effect.head {
            self.head_mut().then(*head);
        }
        for (key, json) in effect.values {
            if !depends.contains(&key) {
                self.set(&key, json);
            }
        }
        // What a step of the later list is computed on is known after a replay.
        self.on = unknown();
    }

    /// Takes one `update` of `key` back. The handler sees again what was `present` before it.
    pub(crate) fn withdraw(&mut self, key: &str, tag: Tag, present: Option<Bytes>) {
        let is_it = |step: &Step| matches!(step.change, Change::Update(_, Some(other)) if other == tag);
        let Some(replay) = &mut self.replay else { return };
        let Some(steps) = replay.steps.get_mut(key) else { return };
        let Some(at) = steps.iter().position(is_it) else { return };
        replay.discarded.push(steps.remove(at));
        replay.updates -= 1;
        if steps.is_empty() {
            replay.steps.remove(key);
            self.effect.values.remove(key);
        } else if at == steps.len() {
            self.effect.values.insert(key.into(), present);
        }
        self.on = unknown();
    }

    /// Keeps the closures of a list that is of no use any more.
    pub(crate) fn discard(&mut self, list: Self) {
        if let Some(list) = list.replay {
            let discarded = list.steps.into_values().flatten().chain(list.discarded);
            self.replay.get_or_insert_default().discarded.extend(discarded);
        }
    }

    /// What was discarded, to be dropped where no lock is held.
    pub(crate) fn take_discarded(&mut self) -> Option<Box<Replay>> {
        self.replay.as_mut().and_then(|replay| replay.take_discarded())
    }
}

impl Replay {
    #[cold]
    fn take_discarded(&mut self) -> Option<Box<Self>> {
        let discarded = std::mem::take(&mut self.discarded);
        (!discarded.is_empty()).then(|| Box::new(Self { discarded, ..Self::default() }))
    }
}

impl Step {
    fn of(change: Change) -> Self {
        Self { change, before_login: false }
    }
}

impl Change {
    fn to(json: &Option<Bytes>) -> Self {
        json.clone().map_or(Self::Remove, Self::Set)
    }

    fn is_update(&self) -> bool {
        matches!(self, Self::Update(..))
    }
}

/// An identity that no record has.
pub(crate) fn unknown() -> Identity {
    Some(Version::unique())
}

impl Effect {
    pub(crate) fn is_empty(&self) -> bool {
        !self.cleared && self.values.is_empty() && self.head.is_none()
    }

    pub(crate) fn head(&self) -> Option<&HeadChanges> {
        self.head.as_deref()
    }

    /// `head` with the changes made; `lifetime` is the store's.
    pub(crate) fn head_on(&self, head: &Head, lifetime: Duration) -> Head {
        self.head().map_or_else(|| head.clone(), |changes| head.changed(changes, lifetime))
    }

    /// `None`: this list says nothing of the key.
    pub(crate) fn get(&self, key: &str) -> Option<Option<&Bytes>> {
        match self.values.get(key) {
            Some(json) => Some(json.as_ref()),
            None if self.cleared => Some(None),
            None => None,
        }
    }

    /// Whether there is anything to store in a session that had nothing.
    pub(crate) fn stores_something(&self) -> bool {
        self.head().is_some_and(|head| matches!(head.owner, Some(Some(_)))) || self.values.values().any(Option::is_some)
    }

    /// Whether a record with these changes differs from the one without; `lifetime` is the store's.
    pub(crate) fn alters(&self, record: &Record, lifetime: Duration) -> bool {
        let changed = |key: &str, json: &Option<Bytes>| match (json, record.values.json(key)) {
            (Some(new), Some(old)) => !json::same(old, new),
            (None, None) => false,
            _ => true,
        };
        if self.values.iter().any(|(key, json)| changed(key, json)) {
            return true;
        }
        // Every value that is set equals the old one, so that others are gone if there are fewer.
        if self.cleared && self.values.values().flatten().count() != record.values.len() {
            return true;
        }
        self.head.is_some() && self.head_on(&record.head, lifetime) != record.head
    }

    /// `self` first, `later` after it.
    pub(crate) fn followed_by(&self, later: &Self) -> Self {
        let mut both = if later.cleared {
            Self { cleared: true, values: BTreeMap::new(), head: self.head.clone() }
        } else {
            self.clone()
        };
        both.values.extend(later.values.iter().map(|(key, json)| (key.clone(), json.clone())));
        if let Some(head) = &later.head {
            both.head.get_or_insert_default().then((**head).clone());
        }
        both
    }

    /// The values of `base` with the changes made, in the order of their keys.
    pub(crate) fn merged<'a>(&'a self, base: &'a Values) -> impl Iterator<Item = EncodedValue<'a>> {
        let mut kept = base.iter().take(if self.cleared { 0 } else { usize::MAX });
        let mut changed = self.values.iter();
        let (mut old, mut new) = (kept.next(), changed.next());
        std::iter::from_fn(move || {
            loop {
                let order = match (&old, new) {
                    (Some(old), Some((key, _))) => old.key.cmp(key.as_bytes()),
                    (Some(_), None) => Ordering::Less,
                    (None, _) => Ordering::Greater,
                };
                if order == Ordering::Less {
                    return std::mem::replace(&mut old, kept.next());
                }
                if order == Ordering::Equal {
                    old = kept.next();
                }
                let (key, json) = std::mem::replace(&mut new, changed.next())?;
                if let Some(json) = json {
                    return Some((key.as_bytes(), &json[..]).into());
                }
            }
        })
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("values", &self.effect.values.len()).finish_non_exhaustive()
    }
}
