//! What must be true of one session and its handles, as a program that knows neither the cache nor the library.
use std::collections::BTreeMap;

pub(super) const KEYS: [&str; 3] = ["n", "b", "c"];
pub(super) const OWNERS: [&str; 2] = ["alice", "bob"];

/// One change of a handle.
#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    Set(usize, u64),
    Add(usize, u64),
    Remove(usize),
    Clear,
    Owner(Option<usize>),
    /// It clears what is seen where that is another owner's; what is stored decides anew.
    LogIn {
        owner: usize,
        clears: bool,
    },
}

/// What becomes of the first compare-and-set of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is done; its answer is lost.
    ReplyLost,
    /// It is not done; that is not known.
    RequestLost,
    /// It is not done; that is known.
    Refused,
}

/// What a commit returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitResult {
    Done,
    Gone,
    Failed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub values: BTreeMap<&'static str, u64>,
    pub owner: Option<&'static str>,
}

impl Data {
    fn apply(&mut self, op: Op) {
        match op {
            Op::Set(key, value) => drop(self.values.insert(KEYS[key], value)),
            Op::Add(key, by) => *self.values.entry(KEYS[key]).or_default() += by,
            Op::Remove(key) => drop(self.values.remove(KEYS[key])),
            Op::Clear => self.values.clear(),
            Op::Owner(owner) => self.owner = owner.map(|owner| OWNERS[owner]),
            Op::LogIn { owner, .. } => {
                if self.is_of_another(owner) {
                    self.values.clear();
                }
                self.owner = Some(OWNERS[owner]);
            }
        }
    }

    fn is_of_another(&self, owner: usize) -> bool {
        self.owner.is_some_and(|present| present != OWNERS[owner])
    }

    fn with(&self, ops: &[Op]) -> Self {
        let mut data = self.clone();
        ops.iter().for_each(|op| data.apply(*op));
        data
    }

    /// This with what `ops` name as it is in `other`.
    fn overlaid(&self, ops: &[Op], other: &Self) -> Self {
        let mut data = self.clone();
        for op in ops {
            match op {
                Op::Clear => data.values.clone_from(&other.values),
                Op::Owner(_) => data.owner = other.owner,
                Op::LogIn { clears, .. } => {
                    if *clears {
                        data.values.clone_from(&other.values);
                    }
                    data.owner = other.owner;
                }
                Op::Set(key, _) | Op::Add(key, _) | Op::Remove(key) => {
                    match other.values.get(KEYS[*key]) {
                        Some(value) => data.values.insert(KEYS[*key], *value),
                        None => data.values.remove(KEYS[*key]),
                    };
                }
            }
        }
        data
    }
}

/// The session as it is stored.
#[derive(Debug, Default)]
pub(super) struct World {
    pub data: Data,
    version: u64,
    versions: u64,
    /// Which family made each renewal.
    renewals: Vec<usize>,
    pub ended: bool,
}

impl World {
    pub(super) fn new(data: Data) -> Self {
        Self { data, ..Self::default() }
    }

    fn draw(&mut self) -> u64 {
        self.versions += 1;
        self.versions
    }

    pub(super) fn epoch(&self) -> usize {
        self.renewals.len()
    }

    fn put(&mut self, data: Data, version: u64) {
        (self.data, self.version) = (data, version);
    }
}

/// A write of unknown outcome.
#[derive(Clone, Debug)]
struct Tried {
    epoch: usize,
    expected: u64,
    version: u64,
    becomes: Data,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Destroyed,
    Gone,
}

/// A handle.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The request whose renewals it follows.
    family: usize,
    epoch: usize,
    version: u64,
    base: Data,
    /// What its user sees.
    pub view: Data,
    /// It looks the session up before it decides anything.
    looks_first: bool,
    /// So does this commit.
    asked: bool,
    pending: Vec<Op>,
    tried: Option<Tried>,
    pub renews: bool,
    pub destroys: bool,
    renewed: bool,
    over: Option<Over>,
}

impl Held {
    pub(super) fn load(world: &World, family: usize) -> Self {
        Self {
            family,
            epoch: world.epoch(),
            version: world.version,
            base: world.data.clone(),
            view: world.data.clone(),
            looks_first: false,
            asked: false,
            pending: Vec::new(),
            tried: None,
            renews: false,
            destroys: false,
            renewed: false,
            over: None,
        }
    }

    /// Sees what this one sees, and has a list of its own.
    pub(super) fn detach(&self) -> Self {
        Self {
            base: self.view.clone(),
            looks_first: true,
            pending: Vec::new(),
            tried: None,
            renews: false,
            destroys: false,
            renewed: false,
            ..self.clone()
        }
    }

    pub(super) fn is_of_another(&self, owner: usize) -> bool {
        self.view.is_of_another(owner)
    }

    pub(super) fn change(&mut self, op: Op) {
        self.view.apply(op);
        self.pending.push(op);
    }

    /// The request failed: what it did is dropped, but for a destroy.
    pub(super) fn fail(&mut self, world: &mut World) {
        if self.destroys {
            world.ended = true;
        }
    }

    /// It was destroyed, or found that the session was gone.
    pub(super) fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Its browser is owed a new ID.
    pub(super) fn owes_cookie(&self) -> bool {
        self.renewed && self.over.is_none()
    }

    fn is_gone(&self, world: &World) -> bool {
        world.ended || world.renewals[self.epoch..].iter().any(|family| *family != self.family)
    }

    fn lose(&mut self) -> CommitResult {
        self.pending.clear();
        self.over = self.over.or(Some(Over::Gone));
        CommitResult::Gone
    }

    fn stored(&mut self, data: Data, version: u64, epoch: usize) {
        (self.base, self.version, self.epoch, self.looks_first) = (data, version, epoch, false);
        self.view = self.base.overlaid(&self.pending, &self.view);
    }

    /// Whether a change of this key is pending.
    pub(super) fn changes(&self, key: usize) -> bool {
        let is_of_key = |op: &Op| match op {
            Op::Set(other, _) | Op::Add(other, _) | Op::Remove(other) => *other == key,
            Op::Clear | Op::LogIn { .. } => true,
            Op::Owner(_) => false,
        };
        self.pending.iter().any(is_of_key)
    }

    /// Whether it waits to learn what became of a write.
    pub(super) fn is_unsure(&self) -> bool {
        self.tried.is_some()
    }

    /// Commits, and the value is computed on what is stored. What failed is not tried again, unless it may be done.
    pub(super) fn add_now(&mut self, world: &mut World, key: usize, by: u64, fault: Option<Fault>) -> CommitResult {
        let (is_changed, seen) = (self.changes(key), self.view.values.get(KEYS[key]).copied());
        self.pending.push(Op::Add(key, by));
        self.asked = true;
        let result = self.commit(world, fault);
        self.asked = false;
        if result == CommitResult::Failed && self.changes(key) {
            self.pending.pop();
            // While a write of unknown outcome stands in the way, nothing has changed.
            if !self.is_unsure() {
                self.view = self.base.overlaid(&self.pending, &self.view);
            }
            if is_changed {
                self.view.values.remove(KEYS[key]);
                self.view.values.extend(seen.map(|value| (KEYS[key], value)));
            }
        }
        result
    }

    /// Commits, with a change that is made meanwhile, and is not part of it.
    pub(super) fn commit_during(&mut self, world: &mut World, fault: Option<Fault>, op: Option<Op>) -> CommitResult {
        let during = self.view.with(op.as_slice());
        let result = self.commit(world, fault);
        if let (Some(op), None) = (op, self.over) {
            self.pending.push(op);
            self.view = self.view.overlaid(&[op], &during);
        }
        result
    }

    pub(super) fn reload(&mut self, world: &World) -> CommitResult {
        if self.over.is_some() {
            return CommitResult::Gone;
        }
        if self.is_gone(world) {
            return self.lose();
        }
        self.stored(world.data.clone(), world.version, world.epoch());
        CommitResult::Done
    }

    pub(super) fn commit(&mut self, world: &mut World, mut fault: Option<Fault>) -> CommitResult {
        if self.destroys && self.over != Some(Over::Destroyed) {
            world.ended = true;
            self.pending.clear();
            self.over = Some(Over::Destroyed);
            return CommitResult::Done;
        }
        match self.over {
            Some(Over::Destroyed) if self.pending.is_empty() => return CommitResult::Done,
            Some(_) => return self.lose(),
            None => {}
        }
        if let Some(said) = self.resolve(world, &mut fault) {
            return said;
        }
        if self.renews {
            if self.is_gone(world) {
                return self.lose();
            }
            let (data, version) = (world.data.with(&self.pending), world.draw());
            world.renewals.push(self.family);
            world.put(data.clone(), version);
            self.pending.clear();
            (self.renews, self.renewed) = (false, true);
            self.stored(data, version, world.epoch());
            return CommitResult::Done;
        }
        if self.pending.is_empty() { CommitResult::Done } else { self.write(world, fault) }
    }

    /// Sends the write of unknown outcome again.
    fn resolve(&mut self, world: &mut World, fault: &mut Option<Fault>) -> Option<CommitResult> {
        let tried = self.tried.take()?;
        let is_there = !world.ended && world.epoch() == tried.epoch;
        let is_done = is_there && world.version == tried.version;
        let can_be_done = is_there && world.version == tried.expected;
        let fault = fault.take();
        if can_be_done && matches!(fault, None | Some(Fault::ReplyLost)) {
            world.put(tried.becomes.clone(), tried.version);
        }
        if fault.is_some() {
            self.tried = Some(tried);
            return Some(CommitResult::Failed);
        }
        if is_done || can_be_done {
            self.stored(tried.becomes, tried.version, tried.epoch);
        } else {
            self.view = self.base.overlaid(&self.pending, &self.view);
        }
        None
    }

    fn write(&mut self, world: &mut World, mut fault: Option<Fault>) -> CommitResult {
        let (mut data, mut version, mut epoch) = (self.base.clone(), self.version, self.epoch);
        let mut looks = self.looks_first || self.asked;
        loop {
            if looks {
                if self.is_gone(world) {
                    return self.lose();
                }
                (data, version, epoch) = (world.data.clone(), world.version, world.epoch());
            }
            looks = true;
            let becomes = data.with(&self.pending);
            if becomes == data {
                self.pending.clear();
                self.stored(data, version, epoch);
                return CommitResult::Done;
            }
            let new = world.draw();
            let fits = !world.ended && (version, epoch) == (world.version, world.epoch());
            let fault = fault.take();
            if fits && matches!(fault, None | Some(Fault::ReplyLost)) {
                world.put(becomes.clone(), new);
            }
            match fault {
                Some(fault) => {
                    self.view = self.base.overlaid(&self.pending, &becomes);
                    if fault != Fault::Refused {
                        self.pending.clear();
                        self.tried = Some(Tried { epoch, expected: version, version: new, becomes });
                    }
                    return CommitResult::Failed;
                }
                None if fits => {
                    self.pending.clear();
                    self.stored(becomes, new, epoch);
                    return CommitResult::Done;
                }
                None => {}
            }
        }
    }
}
