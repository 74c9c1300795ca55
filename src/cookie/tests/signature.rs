use http::{HeaderMap, HeaderValue, header::COOKIE};

use super::*;

fn key(fill: u8) -> SigningKey {
    SigningKey::from_bytes(&[fill; 32]).unwrap()
}

fn signing(keys: &[SigningKey]) -> CookiePolicy {
    policy(|it| it.keys = Some(keys.to_vec()))
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

    for length in [32, 33, 63, 64, 65, 200] {
        let bytes: Vec<_> = (1..=length).collect();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&bytes).unwrap();
        mac.update(format!("cloakroom cookie signature 1\0__Host-id\0{X}").as_bytes());
        let expected = format!("{X}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()));
        let first = SigningKey::from_bytes(&bytes).unwrap();
        assert_eq!(value(&signing(&[first, key(2)])), expected, "{length} bytes");
        assert_eq!(expected.len(), 76);
    }
}

#[test]
fn the_first_key_signs_and_any_verifies() {
    let old = value(&signing(&[key(1)]));
    for (keys, resign) in [(vec![key(1)], false), (vec![key(1), key(2)], false), (vec![key(2), key(1)], true)] {
        let found = read(&signing(&keys), &old);
        assert_eq!(found.iter().next(), Some(&crate::cookie::policy::Candidate { id: id(X), resign }));
        assert!(!found.malformed);
    }
    let three = signing(&[key(3), key(2), key(1)]);
    assert!(read(&three, &old).iter().next().unwrap().resign);
    assert!(!read(&three, &value(&three)).iter().next().unwrap().resign);
}

/// Whether a value that gives no ID is reported as one of another form, or as a session ID without a valid signature.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ignored {
    Malformed,
    Unsigned,
}

#[test]
fn what_is_not_signed_is_ignored() {
    use Ignored::{Malformed, Unsigned};

    let policy = signing(&[key(1), key(2)]);
    let good = value(&policy);
    let other_name = self::policy(|it| (it.name, it.keys) = ("__Host-ie".to_owned(), Some(vec![key(1)])));
    let mut rows = vec![
        (X.to_owned(), Unsigned),
        (format!("{X}."), Malformed),
        (format!("{X}.{}", "A".repeat(43)), Unsigned),
        (format!("{X}.{}", "A".repeat(42)), Malformed),
        (value(&signing(&[key(3)])), Unsigned),
        (value(&other_name), Unsigned),
        (good.replace(X, Y), Unsigned),
        (good.replace('.', "-"), Malformed),
        (format!("{good}="), Malformed),
        (format!("{good}A"), Malformed),
        (format!("\"{good}\""), Malformed),
        (good[..75].to_owned(), Malformed),
        (good[..31].to_owned(), Malformed),
        (String::new(), Malformed),
        (format!("{good}.{}", &good[33..]), Malformed),
    ];
    // Every single changed character, the spare bits of the last one included.
    for at in 0..good.len() {
        let changed = if &good[at..=at] == "B" { "C" } else { "B" };
        let ignored = if at == 32 || at == 75 { Malformed } else { Unsigned };
        rows.push((format!("{}{changed}{}", &good[..at], &good[at + 1..]), ignored));
    }
    let last = good.bytes().last().unwrap();
    rows.push((format!("{}{}", &good[..75], char::from(last + 1)), Malformed));
    for (row, ignored) in rows {
        let found = read(&policy, &row);
        assert!(found.is_empty(), "{row}");
        assert_eq!((found.malformed, found.unsigned), (ignored == Malformed, ignored == Unsigned), "{row}");
        assert_eq!(read(&policy, &format!("{row}; __Host-id={good}")).iter().next().unwrap().id, id(X));
    }
    let both = read(&policy, &format!("x; __Host-id={X}"));
    assert!(both.malformed && both.unsigned);
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
    assert!(found.is_empty() && found.unsigned && found.more);
}

#[test]
fn a_signature_counts_for_the_length() {
    let long = |length| settings(|it| (it.name, it.keys) = ("n".repeat(length), Some(vec![key(1)]))).check();
    assert!(long(4096 - 76).is_ok());
    assert_eq!(long(4096 - 75).unwrap_err().setting(), "cookie_name");
}

#[test]
fn keys_that_protect_nothing_are_refused() {
    let one = || SigningKey::from_bytes(&[&[0; 31][..], &[1]].concat()).unwrap();
    let rows = [(vec![], "at least one key"), (vec![key(1), key(1)], "twice"), (vec![key(1), key(2), key(1)], "twice")];
    for (keys, rule) in rows {
        let error = settings(|it| it.keys = Some(keys)).check().unwrap_err();
        assert!(error.setting() == "signing_keys" && error.rule().contains(rule), "{error}");
    }
    for keys in [vec![one()], vec![key(1), key(2), key(3)]] {
        assert!(settings(|it| it.keys = Some(keys)).check().is_ok());
    }
}

#[test]
fn a_key_has_at_least_32_bytes() {
    for length in [0, 1, 16, 31] {
        let error = SigningKey::from_bytes(&vec![b'k'; length]).unwrap_err();
        assert_eq!(error.setting(), "signing_keys");
        assert!(error.rule().contains("at least 32") && error.rule().contains(&format!("has {length} ")), "{error}");
    }
    for length in [32, 64, 65, 1000] {
        assert!(SigningKey::from_bytes(&vec![b'k'; length]).is_ok());
        // A longer one is hashed, and its digest is not zero.
        let error = SigningKey::from_bytes(&vec![0; length]).unwrap_err();
        assert!(error.rule().contains("zeros"), "{error}");
    }
}

#[test]
fn a_generated_key_is_another_one_each_time() {
    let keys: Vec<_> = (0..20).map(|_| SigningKey::generate().unwrap()).collect();
    assert!(keys[0].block()[..32].iter().any(|byte| *byte != 0));
    assert!(settings(|it| it.keys = Some(keys)).check().is_ok());
}

#[test]
fn a_key_in_base64_is_the_key_of_its_bytes() {
    use base64::{Engine, engine::general_purpose};

    let bytes: Vec<u8> = [0xfb, 0xff, 0xfe, 7].into_iter().cycle().take(34).collect();
    let expected = value(&signing(&[SigningKey::from_bytes(&bytes).unwrap()]));
    let texts = [
        general_purpose::STANDARD.encode(&bytes),
        general_purpose::STANDARD_NO_PAD.encode(&bytes),
        general_purpose::URL_SAFE.encode(&bytes),
    ];
    assert!(texts[0].contains('/') && texts[0].contains('+') && texts[0].ends_with('='));
    for text in texts {
        let wrapped = format!(" {}\n{}\r\n", &text[..20], &text[20..]);
        for text in [text, wrapped] {
            assert_eq!(value(&signing(&[SigningKey::from_base64(&text).unwrap()])), expected, "{text}");
        }
    }
    for bad in ["", "kkkk", "canary!", &"k".repeat(42), &"ü".repeat(50), &format!("{}=", "k".repeat(44))] {
        let error = SigningKey::from_base64(bad).unwrap_err();
        assert!(error.setting() == "signing_keys" && !error.to_string().contains("canary"), "{error}");
    }
}

#[test]
fn no_key_is_shown() {
    let key = SigningKey::from_bytes(&[b'k'; 64]).unwrap();
    let settings = settings(|it| it.keys = Some(vec![key.clone()]));
    let text = format!("{key:?} {settings:?} {:#?}", CookiePolicy::new(&settings).unwrap());
    assert!(!text.contains("kkk") && !text.contains("107, 107"), "{text}");
    assert!(text.contains("keys: 1") && text.contains("signed: true"), "{text}");
}

#[test]
fn debug_names_the_type_and_shows_no_key() {
    assert_eq!(format!("{:?}", key(7)), "SigningKey(redacted)");
    let signer = crate::cookie::signature::Signer::new("id", &[key(7)]).unwrap();
    assert_eq!(format!("{signer:?}"), "Signer(redacted)");
}
