use ::cookie::Key;
use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::*;

fn key(seed: u8) -> Key {
    Key::derive_from(&[seed; 32])
}

fn signing(keys: &[Key]) -> CookiePolicy {
    policy(|it| it.keys = keys.to_vec())
}

/// The value in the cookie that the policy issues.
fn value(policy: &CookiePolicy) -> String {
    let issued = policy.issue(&id(X), None);
    let text = issued.to_str().unwrap();
    let (_, text) = text.split_once('=').unwrap();
    text.split(';').next().unwrap().to_owned()
}

fn read(policy: &CookiePolicy, value: &str) -> Candidates {
    let pair = HeaderValue::from_str(&format!("{}={value}", policy.name())).unwrap();
    policy.read(&HeaderMap::from_iter([(COOKIE, pair)]))
}

#[test]
fn the_value_is_the_id_and_an_hmac() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use hmac::{Hmac, KeyInit, Mac};

    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key(1).signing()).unwrap();
    mac.update(format!("cloakroom cookie signature 1\0__Host-id\0{X}").as_bytes());
    let expected = format!("{X}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
    assert_eq!(value(&signing(&[key(1), key(2)])), expected);
    assert_eq!(expected.len(), 76);
}

#[test]
fn the_first_key_signs_and_any_verifies() {
    let old = value(&signing(&[key(1)]));
    for (keys, resign) in [(vec![key(1)], false), (vec![key(1), key(2)], false), (vec![key(2), key(1)], true)] {
        let found = read(&signing(&keys), &old);
        assert_eq!(found.iter().next(), Some(&crate::cookie::read::Candidate { id: id(X), resign }));
        assert!(!found.malformed);
    }
    let three = signing(&[key(3), key(2), key(1)]);
    assert!(read(&three, &old).iter().next().unwrap().resign);
    assert!(!read(&three, &value(&three)).iter().next().unwrap().resign);
}

#[test]
fn what_is_not_signed_is_malformed() {
    let policy = signing(&[key(1), key(2)]);
    let good = value(&policy);
    let other_name = self::policy(|it| (it.name, it.keys) = ("__Host-ie".to_owned(), vec![key(1)]));
    let mut rows = vec![
        X.to_owned(),
        format!("{X}."),
        format!("{X}.{}", "A".repeat(43)),
        value(&signing(&[key(3)])),
        value(&other_name),
        good.replace(X, Y),
        good.replace('.', "-"),
        format!("{good}="),
        format!("{good}A"),
        format!("\"{good}\""),
        good[..75].to_owned(),
        format!("{good}.{}", &good[33..]),
    ];
    // Every single changed character, the spare bits of the last one included.
    for at in 0..good.len() {
        let changed = if &good[at..=at] == "B" { "C" } else { "B" };
        rows.push(format!("{}{changed}{}", &good[..at], &good[at + 1..]));
    }
    let last = good.bytes().last().unwrap();
    rows.push(format!("{}{}", &good[..75], char::from(last + 1)));
    for row in rows {
        let found = read(&policy, &row);
        assert!(found.is_empty() && found.malformed, "{row}");
        assert_eq!(read(&policy, &format!("{row}; __Host-id={good}")).iter().next().unwrap().id, id(X));
    }
    // And a signed value means nothing where none are.
    assert!(read(&CookiePolicy::default(), &good).is_empty());
}

#[test]
fn no_more_than_64_signatures_are_computed() {
    let policy = signing(&[key(1)]);
    let good = value(&policy);
    let planted = |count| format!("{X}.{}; __Host-id=", "A".repeat(43)).repeat(count) + &good;
    assert!(!read(&policy, &planted(63)).is_empty());
    let found = read(&policy, &planted(64));
    assert!(found.is_empty() && found.malformed && found.more);
}

#[test]
fn a_signature_counts_for_the_length() {
    let long = |length| settings(|it| (it.name, it.keys) = ("n".repeat(length), vec![key(1)])).check();
    assert!(long(4096 - 76).is_ok());
    assert_eq!(long(4096 - 75).unwrap_err().setting(), "cookie_name");
}

#[test]
fn no_key_is_shown() {
    let bytes = [b'k'; 64];
    let settings = settings(|it| it.keys = vec![Key::from(&bytes)]);
    let text = format!("{settings:?} {:#?}", settings.clone().check().unwrap());
    assert!(!text.contains("kkk") && !text.contains("107, 107"), "{text}");
    assert!(text.contains("keys: 1") && text.contains("signed: true"), "{text}");
}
