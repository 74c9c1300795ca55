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
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;

use super::{
    Record,
    head::{HeadChanges, Owner},
    json,
    values::{EncodedValue, Values},
};
use crate::{cache::Version, error::SessionError};

/// The closures that a list keeps: each of them runs again at every replay.
const MAX_UPDATES: usize = 1000;

/// An `update` closure: from the JSON under the value key to the JSON that should be there.
pub(crate) type Run = Box<dyn FnMut(Option<&[u8]>) -> Result<Option<Bytes>, SessionError> + Send>;

/// Tells one `update` from the others, so that it can be withdrawn.
pub(crate) type Tag = u64;

/// The version of the record that a list of changes was computed on; `None` for a session that is not stored.
pub(crate) type Identity = Option<Version>;

/// Closures that are of no use any more. They are the user's, so they are dropped where no lock is held.
#[derive(Default)]
#[must_use = "closures of the user are dropped without a lock"]
pub(crate) struct Discarded(Vec<Step>);

impl Discarded {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The changes of a session in their order, of which only those are kept that still matter.
#[derive(Default)]
pub(crate) struct Changes {
    /// What the list was computed on: on any other record it is replayed before it counts.
    pub(crate) on: Identity,
    /// What comes of the list on that record. Shared with the readers of a commit under way.
    effect: Option<Arc<Effect>>,
    /// How a value comes about that depends on the record.
    steps: BTreeMap<Box<str>, Vec<Step>>,
    /// All that the record has goes first.
    clear: bool,
    login: Option<Box<Login>>,
    updates: usize,
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
    head: HeadChanges,
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
    Update(Mutex<Run>, Tag),
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.effect().is_empty()
    }

    pub(crate) fn effect(&self) -> &Effect {
        static NOTHING: LazyLock<Effect> = LazyLock::new(Effect::default);
        self.effect.as_deref().unwrap_or(&NOTHING)
    }

    /// The effect as it is now, for readers.
    pub(crate) fn share(&mut self) -> Arc<Effect> {
        Arc::clone(self.effect.get_or_insert_default())
    }

    fn edit(&mut self) -> &mut Effect {
        Arc::make_mut(self.effect.get_or_insert_default())
    }

    pub(crate) fn set(&mut self, key: &str, json: Bytes) -> Discarded {
        self.put(key, Some(json))
    }

    pub(crate) fn remove(&mut self, key: &str) -> Discarded {
        self.put(key, None)
    }

    /// A value that does not depend on the record.
    fn put(&mut self, key: &str, json: Option<Bytes>) -> Discarded {
        let discarded = self.steps.remove(key).unwrap_or_default();
        self.updates -= count_updates(&discarded);
        self.edit().values.insert(key.into(), json);
        Discarded(discarded)
    }

    /// Takes in what `run` made of the present value.
    pub(crate) fn update(
        &mut self,
        key: &str,
        json: Option<Bytes>,
        run: Run,
        tag: Tag,
    ) -> Result<Discarded, SessionError> {
        // This list has decided the present value, so that the closure need not run again.
        let is_certain = self.clear || self.effect().values.contains_key(key);
        if is_certain && !self.steps.contains_key(key) {
            let mut discarded = self.put(key, json);
            discarded.0.push(Step { change: Change::Update(Mutex::new(run), tag), before_login: false });
            return Ok(discarded);
        }
        if self.updates >= MAX_UPDATES {
            return Err(SessionError::TooManyUpdates { limit: MAX_UPDATES });
        }
        self.push(key, Step { change: Change::Update(Mutex::new(run), tag), before_login: false }, json);
        Ok(Discarded::default())
    }

    /// A change that is computed at the commit, on the record that is then stored.
    pub(crate) fn update_at_commit(&mut self, key: &str, run: Run, tag: Tag) -> Result<Discarded, SessionError> {
        if self.updates >= MAX_UPDATES {
            return Err(SessionError::TooManyUpdates { limit: MAX_UPDATES });
        }
        let present = self.effect().values.get(key).cloned();
        self.push(key, Step { change: Change::Update(Mutex::new(run), tag), before_login: false }, present.flatten());
        self.on = unknown();
        Ok(Discarded::default())
    }

    fn push(&mut self, key: &str, step: Step, json: Option<Bytes>) {
        self.updates += usize::from(matches!(step.change, Change::Update(..)));
        let certain = |json: &Option<Bytes>| Step {
            change: json.clone().map_or(Change::Remove, Change::Set),
            before_login: false,
        };
        match self.steps.get_mut(key) {
            Some(steps) => steps.push(step),
            None => {
                let before = self.effect().values.get(key).map(certain);
                self.steps.insert(key.into(), before.into_iter().chain([step]).collect());
            }
        }
        self.edit().values.insert(key.into(), json);
    }

    pub(crate) fn clear(&mut self) -> Discarded {
        let discarded = std::mem::take(&mut self.steps).into_values().flatten().collect();
        (self.clear, self.updates) = (true, 0);
        let effect = self.edit();
        effect.cleared = true;
        effect.values.clear();
        Discarded(discarded)
    }

    /// Changes settings.
    pub(crate) fn change_head(&mut self, changes: HeadChanges) {
        self.edit().head.then(changes);
    }

    /// The time of a new owner is that of the commit: until then the session is not on the owner's list.
    pub(crate) fn stamp(&mut self, now: u64) {
        if matches!(self.effect().head.owner, Some(Some(_)))
            && let Some(Some(owner)) = &mut self.edit().head.owner
        {
            owner.stamp.at = now;
        }
    }

    /// Gives the session to `owner`, whose login is now. The data of another owner goes first, also where only a replay
    /// finds that there was one; `present` is the owner as far as it is known.
    pub(crate) fn log_in(&mut self, owner: Owner, present: Option<&str>) -> Discarded {
        let of_another = |present: Option<&str>| present.is_some_and(|present| present != &*owner.name);
        let mut discarded = Discarded::default();
        let head = &self.effect().head;
        let set = head.owner.as_ref().map(|owner| owner.as_ref().map(|owner| owner.name.clone()));
        match set {
            // This list has decided the owner, so that no replay can find another one.
            Some(set) => {
                let is_first = self.login.is_none();
                if of_another(set.as_deref()) {
                    discarded = self.clear();
                }
                if is_first {
                    self.login = Some(Box::new(Login { owner: owner.clone(), before: Some(set) }));
                }
            }
            None => {
                let values = std::mem::take(&mut self.edit().values);
                for (key, json) in &values {
                    let change = json.clone().map_or(Change::Remove, Change::Set);
                    if !self.steps.contains_key(key) {
                        self.steps.insert(key.clone(), vec![Step { change, before_login: true }]);
                    }
                }
                self.steps.values_mut().flatten().for_each(|step| step.before_login = true);
                let dropped = of_another(present);
                let effect = self.edit();
                effect.cleared |= dropped;
                effect.values = values;
                if dropped {
                    effect.values.values_mut().for_each(|json| *json = None);
                }
                self.login = Some(Box::new(Login { owner: owner.clone(), before: None }));
            }
        }
        let (login, owner) = (Some(owner.stamp.at), Some(Some(owner)));
        self.edit().head.then(HeadChanges { owner, login, authenticated: login, ..HeadChanges::default() });
        discarded
    }

    /// Whether a value is known only after a replay on the stored record.
    pub(crate) fn depends_on_record(&self) -> bool {
        !self.steps.is_empty()
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
        let of_another = self.login.as_ref().is_some_and(|login| {
            let before = login.before.as_ref().map_or_else(|| record.head.owner(), Option::as_deref);
            before.is_some_and(|before| before != &*login.owner.name)
        });
        let cleared = self.clear || of_another;
        if self.steps.is_empty() && self.effect().cleared == cleared {
            self.on = identity;
            return Ok(());
        }
        let effect = Arc::make_mut(self.effect.get_or_insert_default());
        effect.cleared = cleared;
        for (key, steps) in &mut self.steps {
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
            effect.values.insert(key.clone(), json);
        }
        self.on = identity;
        Ok(())
    }

    /// The two lists as one, `self` first.
    pub(crate) fn then(&mut self, mut later: Self) -> Discarded {
        if self.is_empty() {
            let earlier = std::mem::replace(self, later);
            return Discarded(earlier.steps.into_values().flatten().collect());
        }
        if later.is_empty() {
            return later.discard();
        }
        let mut discarded = Discarded::default();
        let later_effect = later.share();
        if later.clear {
            discarded = self.clear();
        }
        let (before, after): (Vec<_>, Vec<_>) = std::mem::take(&mut later.steps)
            .into_iter()
            .flat_map(|(key, steps)| steps.into_iter().map(move |step| (key.clone(), step)))
            .partition(|(_, step)| step.before_login);
        let mut depends: Vec<Box<str>> = Vec::new();
        let append = |list: &mut Self, steps: Vec<(Box<str>, Step)>, depends: &mut Vec<Box<str>>| {
            for (key, step) in steps {
                let json = later_effect.values.get(&key).cloned().flatten();
                list.push(&key, Step { before_login: false, ..step }, json);
                depends.push(key);
            }
        };
        append(self, before, &mut depends);
        if let Some(login) = later.login {
            let Login { owner, before: set } = *login;
            if let Some(set) = set {
                let owner = set.map(|name| Owner { name, stamp: owner.stamp });
                self.change_head(HeadChanges { owner: Some(owner), ..HeadChanges::default() });
            }
            let more = self.log_in(owner, None);
            discarded.0.extend(more.0);
        }
        append(self, after, &mut depends);
        self.change_head(later_effect.head.clone());
        for (key, json) in &later_effect.values {
            if !depends.contains(key) {
                let more = self.put(key, json.clone());
                discarded.0.extend(more.0);
            }
        }
        // What a step of the later list is computed on is known after a replay.
        self.on = unknown();
        discarded
    }

    /// Takes one `update` back.
    pub(crate) fn withdraw(&mut self, tag: Tag) -> Discarded {
        let is_it = |step: &mut Step| matches!(step.change, Change::Update(_, other) if other == tag);
        let mut discarded = Vec::new();
        let mut emptied = Vec::new();
        for (key, steps) in &mut self.steps {
            discarded.extend(steps.extract_if(.., is_it));
            if steps.is_empty() {
                emptied.push(key.clone());
            }
        }
        self.updates -= discarded.len();
        for key in emptied {
            self.steps.remove(&key);
            self.edit().values.remove(&key);
        }
        if !discarded.is_empty() {
            self.on = unknown();
        }
        Discarded(discarded)
    }

    /// All closures: for a list that is of no use any more.
    pub(crate) fn discard(self) -> Discarded {
        if self.steps.is_empty() {
            Discarded::default()
        } else {
            Discarded(self.steps.into_values().flatten().collect())
        }
    }
}

/// An identity that no record has.
pub(crate) fn unknown() -> Identity {
    Some(Version::unique())
}

fn count_updates(steps: &[Step]) -> usize {
    steps.iter().filter(|step| matches!(step.change, Change::Update(..))).count()
}

impl Effect {
    pub(crate) fn is_empty(&self) -> bool {
        !self.cleared && self.values.is_empty() && self.head.is_empty()
    }

    pub(crate) fn head(&self) -> &HeadChanges {
        &self.head
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
        matches!(self.head.owner, Some(Some(_))) || self.values.values().any(Option::is_some)
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
        !self.head.is_empty() && record.head.changed(&self.head, lifetime) != record.head
    }

    /// `self` first, `later` after it.
    pub(crate) fn followed_by(&self, later: &Self) -> Self {
        let mut both = if later.cleared {
            Self { cleared: true, values: BTreeMap::new(), head: self.head.clone() }
        } else {
            self.clone()
        };
        both.values.extend(later.values.iter().map(|(key, json)| (key.clone(), json.clone())));
        both.head.then(later.head.clone());
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
        f.debug_struct("Changes").field("values", &self.effect().values.len()).finish_non_exhaustive()
    }
}
