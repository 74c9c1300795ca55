//! One session as one object whose operations take effect one after the other.
use stateright::semantics::SequentialSpec;

pub(crate) const KEYS: [&str; 2] = ["a", "b"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Get(usize),
    Set(usize, u64),
    /// By `update_now`: returns the value that was stored.
    Add(usize),
    /// By `update` and a commit that is repeated after an error, as a request does it.
    Bump(usize),
    Remove(usize),
    Take(usize),
    Destroy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ret {
    Done,
    Value(Option<u64>),
    Gone,
}

impl Op {
    pub(crate) fn random(random: u64) -> Self {
        let (key, value) = ((random >> 8) as usize % KEYS.len(), (random >> 16) % 100 * 100);
        match random % 40 {
            0..8 => Self::Get(key),
            8..14 => Self::Set(key, value),
            14..22 => Self::Add(key),
            22..31 => Self::Bump(key),
            31..34 => Self::Remove(key),
            34..39 => Self::Take(key),
            _ => Self::Destroy,
        }
    }

    pub(crate) fn line(self) -> String {
        match self {
            Self::Get(key) => format!("get {key} 0"),
            Self::Set(key, value) => format!("set {key} {value}"),
            Self::Add(key) => format!("add {key} 0"),
            Self::Bump(key) => format!("bump {key} 0"),
            Self::Remove(key) => format!("remove {key} 0"),
            Self::Take(key) => format!("take {key} 0"),
            Self::Destroy => "destroy 0 0".into(),
        }
    }

    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let name = words.next()?;
        let (key, value) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(match name {
            "get" => Self::Get(key),
            "set" => Self::Set(key, value),
            "add" => Self::Add(key),
            "bump" => Self::Bump(key),
            "remove" => Self::Remove(key),
            "take" => Self::Take(key),
            "destroy" => Self::Destroy,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    values: [Option<u64>; KEYS.len()],
    is_gone: bool,
}

impl SequentialSpec for Stored {
    type Op = Op;
    type Ret = Ret;

    fn invoke(&mut self, op: &Op) -> Ret {
        if self.is_gone {
            // To end what has ended is no error.
            return if *op == Op::Destroy { Ret::Done } else { Ret::Gone };
        }
        match *op {
            Op::Get(key) => return Ret::Value(self.values[key]),
            Op::Set(key, value) => self.values[key] = Some(value),
            Op::Add(key) => {
                self.values[key] = Some(self.values[key].unwrap_or_default() + 1);
                return Ret::Value(self.values[key]);
            }
            Op::Bump(key) => self.values[key] = Some(self.values[key].unwrap_or_default() + 1),
            Op::Remove(key) => self.values[key] = None,
            Op::Take(key) => return Ret::Value(self.values[key].take()),
            Op::Destroy => self.is_gone = true,
        }
        Ret::Done
    }
}
