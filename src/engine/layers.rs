//! Which cookie name the layers on a store's sessions have: two names are two applications that accept each other's sessions.
use std::sync::{Arc, Mutex, PoisonError};

/// Key prefixes that are remembered: a process has one or a few.
const MOST: usize = 64;

/// Shared by the clones of a store.
#[derive(Default)]
pub(super) struct Layers(Mutex<Vec<(Arc<str>, Box<str>)>>);

impl Layers {
    /// Remembers the first name under each prefix, and returns that if this one is another.
    pub(super) fn note(&self, prefix: &Arc<str>, name: &str) -> Option<Box<str>> {
        let mut layers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match layers.iter().find(|(known, _)| known == prefix) {
            Some((_, first)) => (**first != *name).then(|| first.clone()),
            None => {
                if layers.len() < MOST {
                    layers.push((Arc::clone(prefix), name.into()));
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_name_under_the_same_prefix_is_found() {
        let layers = Layers::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one:".into(), "other:".into());
        assert_eq!(layers.note(&one, "a"), None);
        assert_eq!(layers.note(&one, "a"), None);
        assert_eq!(layers.note(&other, "b"), None);
        assert_eq!(layers.note(&one, "b").as_deref(), Some("a"));
        assert_eq!(layers.note(&other, "a").as_deref(), Some("b"));
        for number in 0..100 {
            layers.note(&format!("{number}").into(), "a");
        }
        assert_eq!(layers.0.lock().unwrap().len(), MOST);
    }
}
