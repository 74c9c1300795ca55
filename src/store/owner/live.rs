//! The sessions of a user that live.
use std::collections::{HashMap, HashSet};

use super::list::{AT_ONCE, together};
use crate::{
    cache::Cache,
    error::SessionError,
    id::SessionKey,
    store::{Look, SessionStore, Stored},
};

impl<C: Cache> SessionStore<C> {
    /// The sessions on a user's list that live and are the user's, the oldest first.
    ///
    /// Those of other owners stay on it, unseen: they may be about to become this owner's.
    pub(super) async fn live_of(&self, owner: &str) -> Result<Vec<Stored>, SessionError> {
        let list = self.list_key(owner);
        let members = self.members(&list).await?;
        let found = self.survey(&list, &members).await?;
        let (mut live, mut buried) = (Vec::new(), HashMap::new());
        for (key, look) in found {
            match look {
                Look::Live(stored) if stored.head.owner.as_deref() == Some(owner) => live.push(stored),
                Look::Tombstone { successor, .. } => {
                    buried.insert(key, successor);
                }
                _ => {}
            }
        }
        // While a session is being renewed it stands there twice.
        let keys: HashSet<_> = live.iter().map(|stored| stored.key).collect();
        live.retain(|stored| stored.head.prev().is_none_or(|prev| !keys.contains(&prev)));
        let mut live = self.without_strays(&list, live, buried).await?;
        live.sort_by_key(|stored| (stored.head.created, stored.key));
        Ok(live)
    }

    /// Ends what renewals of unknown outcome left behind, and returns the others: the tombstone that a session came from
    /// leads to it, or to one that was made later. Nobody was ever told the ID of a stray.
    async fn without_strays(
        &self,
        list: &str,
        live: Vec<Stored>,
        mut buried: HashMap<SessionKey, SessionKey>,
    ) -> Result<Vec<Stored>, SessionError> {
        let unknown: Vec<_> =
            live.iter().filter_map(|stored| stored.head.prev()).filter(|prev| !buried.contains_key(prev)).collect();
        for part in unknown.chunks(AT_ONCE) {
            let looks = together(part.iter().map(|prev| self.look(*prev, None))).await;
            for (prev, look) in part.iter().zip(looks) {
                if let Look::Tombstone { successor, .. } = look? {
                    buried.insert(*prev, successor);
                }
            }
        }
        let leads_elsewhere = |stored: &Stored| {
            stored.head.prev().and_then(|prev| buried.get(&prev)).is_some_and(|successor| *successor != stored.key)
        };
        let (strays, live): (Vec<_>, Vec<_>) = live.into_iter().partition(leads_elsewhere);
        for stray in &strays {
            self.discard(stray).await;
        }
        if !strays.is_empty() {
            let keys: Vec<_> = strays.iter().map(|stray| stray.key.to_string()).collect();
            self.cache.list_remove(list, &keys).await?;
        }
        Ok(live)
    }
}
