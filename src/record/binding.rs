//! What binds a session to a device (Device Bound Session Credentials): the public key, open challenges, bound cookies; and
//! what follows from them. Pure: whether a signature is right is found out elsewhere.
use serde::{Deserialize, Serialize};

use crate::id::SessionKey;

/// How long a challenge can be answered.
pub(crate) const CHALLENGE_LIFE: u64 = 60_000;

/// Requests that left the browser before it had the first bound cookie still arrive this long after the registration.
const GRACE: u64 = 30_000;

/// Tabs and processes ask for challenges and cookies at the same time: this many of each are good, the youngest.
const KEPT: usize = 8;

/// As it is kept in the head of a record. No field in here is named `d`: that is where the values of a record begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Binding {
    #[serde(rename = "q", default, skip_serializing_if = "Vec::is_empty")]
    challenges: Vec<Challenge>,
    /// `None`: a registration was offered, and has not come.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
}

/// What the browser is to sign, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Challenge {
    #[serde(rename = "t")]
    pub(crate) text: Box<str>,
    #[serde(rename = "e")]
    pub(crate) until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    /// The browser's name for the session: a renewal keeps it.
    #[serde(rename = "h")]
    handle: Box<str>,
    #[serde(rename = "p")]
    key: PublicKey,
    #[serde(rename = "s")]
    since: u64,
    #[serde(rename = "b")]
    cookies: Vec<BoundCookie>,
}

/// The digest of a bound cookie's value, and until when it is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BoundCookie(pub(crate) SessionKey, pub(crate) u64);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PublicKey {
    #[serde(rename = "a")]
    pub(crate) algorithm: Algorithm,
    /// In base64url: the coordinates `x` and `y` of a point on P-256, or the modulus of an RSA key with exponent 65537.
    #[serde(rename = "y")]
    pub(crate) text: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Algorithm {
    Es256,
    Rs256,
}

/// What a proof of the session's own key comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proven {
    /// The binding with the challenge used up and the new cookie.
    Done(Binding),
    /// The challenge is unknown, used or too old: the browser gets another.
    Stale,
}

impl Binding {
    /// A registration is offered.
    pub(crate) fn offered(challenge: Challenge) -> Self {
        Self { challenges: vec![challenge], device: None }
    }

    /// The offer that has not been taken up.
    pub(crate) fn offer(&self) -> Option<&Challenge> {
        if self.device.is_some() { None } else { self.challenges.last() }
    }

    pub(crate) const fn is_bound(&self) -> bool {
        self.device.is_some()
    }

    /// The key of the device that `handle` names.
    pub(crate) fn key_of(&self, handle: &str) -> Option<&PublicKey> {
        self.device.as_ref().filter(|device| &*device.handle == handle).map(|device| &device.key)
    }

    pub(crate) fn is_named_in(&self, text: &[u8]) -> bool {
        let handle = self.device.as_ref().map(|device| device.handle.as_bytes());
        handle.is_some_and(|handle| !handle.is_empty() && text.windows(handle.len()).any(|part| part == handle))
    }

    /// The binding to the device whose key has signed `challenge`. `None`: it was not offered, or not in this minute.
    pub(crate) fn registered(
        &self,
        challenge: &str,
        handle: &str,
        key: PublicKey,
        cookie: BoundCookie,
        now: u64,
    ) -> Option<Self> {
        let offer = self.offer().filter(|offer| offer.is_open(now))?;
        (&*offer.text == challenge).then(|| Self {
            challenges: Vec::new(),
            device: Some(Device { handle: handle.into(), key, since: now, cookies: vec![cookie] }),
        })
    }

    /// The binding with one more challenge.
    pub(crate) fn challenged(&self, challenge: Challenge, now: u64) -> Self {
        let mut binding = self.clone();
        binding.challenges.retain(|challenge| challenge.is_open(now));
        keep_youngest(&mut binding.challenges, challenge);
        binding
    }

    /// After a proof whose signature is right.
    pub(crate) fn proven(&self, challenge: &str, cookie: BoundCookie, now: u64) -> Proven {
        let mut binding = self.clone();
        let open = binding.challenges.iter().position(|open| open.is_open(now) && &*open.text == challenge);
        let (Some(open), Some(device)) = (open, &mut binding.device) else { return Proven::Stale };
        binding.challenges.remove(open);
        device.cookies.retain(|cookie| now < cookie.1);
        keep_youngest(&mut device.cookies, cookie);
        Proven::Done(binding)
    }

    /// Whether one of these bound cookies shows that the request comes from the device, or need not yet.
    pub(super) fn admits(&self, cookies: &[SessionKey], now: u64) -> bool {
        match &self.device {
            Some(device) => {
                let is_good = |cookie: &BoundCookie| now < cookie.1 && cookies.contains(&cookie.0);
                now < device.since.saturating_add(GRACE) || device.cookies.iter().any(is_good)
            }
            None => self.offer().is_some_and(|offer| offer.is_open(now)),
        }
    }
}

impl Challenge {
    fn is_open(&self, now: u64) -> bool {
        now < self.until
    }
}

fn keep_youngest<T>(list: &mut Vec<T>, one: T) {
    list.push(one);
    list.drain(..list.len().saturating_sub(KEPT));
}

/// A binding that takes as much room as any: to a key of 4096 bits, with all the challenges and cookies that are kept.
#[cfg(test)]
pub(super) fn largest() -> Binding {
    let challenge = Challenge { text: "c".repeat(32).into(), until: u64::MAX };
    let device = Device {
        handle: "h".repeat(32).into(),
        key: PublicKey { algorithm: Algorithm::Rs256, text: "k".repeat(683).into() },
        since: u64::MAX,
        cookies: vec![BoundCookie(SessionKey::of_digest(&[9; 32]), u64::MAX); KEPT],
    };
    Binding { challenges: vec![challenge; KEPT], device: Some(device) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::record::{Head, HeadChanges, Owner, Stamp};

    const HOUR: Duration = Duration::from_secs(3600);
    const NOW: u64 = 1_780_000_000_000;
    const LIFETIME: u64 = 600_000;

    fn challenge(text: &str, at: u64) -> Challenge {
        Challenge { text: text.into(), until: at + CHALLENGE_LIFE }
    }

    fn key() -> PublicKey {
        PublicKey { algorithm: Algorithm::Es256, text: "key".into() }
    }

    fn cookie(byte: u8, at: u64) -> BoundCookie {
        BoundCookie(SessionKey::of_digest(&[byte; 32]), at + LIFETIME)
    }

    fn digest(byte: u8) -> SessionKey {
        SessionKey::of_digest(&[byte; 32])
    }

    fn offered() -> Binding {
        Binding::offered(challenge("offer", NOW))
    }

    fn bound() -> Binding {
        offered().registered("offer", "handle", key(), cookie(1, NOW), NOW).unwrap()
    }

    fn proven(binding: &Binding, challenge: &str, byte: u8, now: u64) -> Binding {
        match binding.proven(challenge, cookie(byte, now), now) {
            Proven::Done(binding) => binding,
            Proven::Stale => panic!("stale"),
        }
    }

    #[test]
    fn a_registration_is_good_once_for_a_minute_with_the_challenge_that_was_offered() {
        let register = |binding: &Binding, challenge: &str, now| {
            binding.registered(challenge, "handle", key(), cookie(1, now), now)
        };
        assert!(register(&offered(), "offer", NOW + CHALLENGE_LIFE - 1).is_some());
        assert!(register(&offered(), "offer", NOW + CHALLENGE_LIFE).is_none());
        assert!(register(&offered(), "other", NOW).is_none());
        assert!(register(&bound(), "offer", NOW).is_none());
        let challenged = bound().challenged(challenge("next", NOW), NOW);
        assert!(register(&challenged, "next", NOW).is_none(), "another key cannot take a bound session over");
        assert!(register(&Binding::default(), "", NOW).is_none());
    }

    #[test]
    fn a_challenge_is_good_once_and_for_a_minute() {
        let binding = bound().challenged(challenge("a", NOW), NOW).challenged(challenge("b", NOW), NOW);
        let after = proven(&binding, "a", 2, NOW);
        assert_eq!(after.proven("a", cookie(3, NOW), NOW), Proven::Stale);
        let after = proven(&after, "b", 3, NOW + CHALLENGE_LIFE - 1);
        assert_eq!(after.challenges, []);
        assert_eq!(binding.proven("a", cookie(2, NOW), NOW + CHALLENGE_LIFE), Proven::Stale);
        assert_eq!(binding.proven("offer", cookie(2, NOW), NOW), Proven::Stale, "it was used by the registration");
        assert_eq!(offered().proven("offer", cookie(2, NOW), NOW), Proven::Stale, "nothing is registered");
    }

    #[test]
    fn the_youngest_challenges_and_cookies_are_kept_and_no_more() {
        let mut binding = bound();
        for at in 0..20 {
            binding = binding.challenged(challenge(&format!("c{at}"), NOW), NOW);
        }
        assert_eq!(binding.challenges.len(), KEPT);
        assert_eq!(binding.proven("c11", cookie(2, NOW), NOW), Proven::Stale);
        for at in 12..20 {
            binding = proven(&binding, &format!("c{at}"), at, NOW);
            for _ in 0..5 {
                binding = binding.challenged(challenge("more", NOW), NOW);
                binding = proven(&binding, "more", 100 + at, NOW);
            }
        }
        let device = binding.device.as_ref().unwrap();
        assert_eq!(device.cookies.len(), KEPT);
        let later = binding.challenged(challenge("z", NOW + LIFETIME), NOW + LIFETIME);
        assert_eq!(later.challenges.len(), 1);
        assert_eq!(proven(&later, "z", 9, NOW + LIFETIME).device.unwrap().cookies, [cookie(9, NOW + LIFETIME)]);
    }

    #[test]
    fn a_bound_session_is_admitted_with_a_bound_cookie_alone() {
        let head = Head::new(NOW, HOUR).with_binding(Some(bound()));
        let admits = |cookies: &[SessionKey], after| head.admits(cookies, false, NOW + after);
        assert!(admits(&[], GRACE - 1), "a request that was sent before the browser had the cookie");
        assert!(!admits(&[], GRACE));
        assert!(admits(&[digest(1)], LIFETIME - 1) && admits(&[digest(7), digest(1)], GRACE));
        assert!(!admits(&[digest(1)], LIFETIME) && !admits(&[digest(7)], GRACE));
        assert!(Head::new(NOW, HOUR).admits(&[], false, NOW));
    }

    #[test]
    fn where_bound_sessions_are_required_a_login_has_a_minute_to_become_one() {
        let owner = Owner { name: "alice".into(), stamp: Stamp { at: NOW, nonce: 1 } };
        let login = HeadChanges {
            owner: Some(Some(owner)),
            login: Some(NOW),
            offer: Some(Box::new(challenge("offer", NOW))),
            ..HeadChanges::default()
        };
        let head = Head::new(NOW, HOUR).changed(&login, HOUR);
        assert!(head.admits(&[], true, NOW + CHALLENGE_LIFE - 1) && !head.admits(&[], true, NOW + CHALLENGE_LIFE));
        assert!(head.admits(&[], false, NOW + CHALLENGE_LIFE));
        assert!(Head::new(NOW, HOUR).admits(&[], true, NOW), "without an owner none is required");
        let unoffered = HeadChanges { offer: None, ..login.clone() };
        assert!(!Head::new(NOW, HOUR).changed(&unoffered, HOUR).admits(&[], true, NOW));
        // A login ends the binding of the one before.
        let bound = head.with_binding(Some(bound()));
        let again = bound.changed(&login, HOUR);
        assert_eq!(again.binding(), Some(&offered()));
        assert!(bound.changed(&unoffered, HOUR).binding().is_none());
        // What is no login keeps it.
        let renewed = HeadChanges { authenticated: Some(NOW), ..HeadChanges::default() };
        assert!(bound.changed(&renewed, HOUR).moved(digest(5), NOW).is_bound());
        assert!(!bound.like(NOW, 7, HOUR).is_bound(), "a copy under another ID");
    }

    #[test]
    fn a_handle_names_one_session_alone() {
        let binding = bound();
        assert!(binding.key_of("handle").is_some() && binding.key_of("other").is_none());
        assert!(offered().key_of("").is_none());
        assert!(binding.is_named_in(b"quota_exceeded;session_identifier=\"key.handle\""));
        assert!(!binding.is_named_in(b"quota_exceeded;session_identifier=\"key.other\""));
        assert!(!offered().is_named_in(b"quota_exceeded"));
    }
}
