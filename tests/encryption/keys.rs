//! Keys: where they come from, which are refused, and that they are never shown.
use super::*;

#[test]
fn keys_have_32_bytes() {
    for length in (0..32).chain(33..100) {
        let error = EncryptionKey::from_bytes(&vec![7; length]).unwrap_err();
        assert!(error.to_string().contains("32 bytes"), "{error}");
    }
    assert!(EncryptionKey::from_bytes(&[7; 32]).is_ok());
}

#[test]
fn a_key_of_zeros_is_refused() {
    assert!(EncryptionKey::from_bytes(&[0; 32]).unwrap_err().to_string().contains("zero"));
    assert!(EncryptionKey::from_base64(&"A".repeat(43)).unwrap_err().to_string().contains("zero"));
    for at in 0..32 {
        let mut bytes = [0; 32];
        bytes[at] = 1;
        assert!(EncryptionKey::from_bytes(&bytes).is_ok(), "{at}");
    }
}

#[test]
fn base64_in_every_usual_form_is_the_same_key() {
    let bytes: [u8; 32] = std::array::from_fn(|at| 255 - at as u8);
    let key = EncryptionKey::from_bytes(&bytes).unwrap();
    for text in [
        "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=",
        "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA",
        "__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA=",
        "__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA",
        "  //79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=\r\n",
    ] {
        let same = EncryptionKey::from_base64(text).unwrap();
        assert!(EncryptedCache::new(InMemoryCache::new(), [key.clone(), same]).is_err(), "{text}");
    }
    for text in [
        "",
        "=",
        "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4e",
        "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eAA",
        "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eB",
        "//79/Pv6+fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA",
        "//79/Pv6+fj39vX08 Lx8O/u7ezr6uno5+bl5OPi4eA",
        &"/".repeat(10_000),
    ] {
        let error = EncryptionKey::from_base64(text).unwrap_err();
        assert!(text.is_empty() || text == "=" || !error.to_string().contains(text), "the error shows the key");
    }
}

#[test]
fn a_cache_needs_keys_and_each_once() {
    let new = |keys: &[u8]| EncryptedCache::new(InMemoryCache::new(), keys.iter().map(|byte| key(*byte)));
    assert!(new(&[]).unwrap_err().to_string().contains("at least one"));
    for keys in [&[1, 1][..], &[1, 2, 1], &[1, 2, 2], &[3, 2, 1, 2]] {
        assert!(new(keys).unwrap_err().to_string().contains("once"), "{keys:?}");
    }
    assert!(new(&(1..=100).collect::<Vec<_>>()).is_ok());
}

#[test]
fn generated_keys_differ() {
    let keys = (0..100).map(|_| EncryptionKey::generate().unwrap());
    assert!(EncryptedCache::new(InMemoryCache::new(), keys).is_ok());
}

#[test]
fn keys_are_not_shown() {
    let secret = "q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k";
    let key = EncryptionKey::from_base64(secret).unwrap();
    let cache = EncryptedCache::new(InMemoryCache::new(), [key.clone()]).unwrap();
    for text in [format!("{key:?} {key:#?}"), format!("{cache:?} {cache:#?}")] {
        let lower = text.to_lowercase();
        for part in ["q83v", "abcd", "171, 205", "0xab", "hmac"] {
            assert!(!lower.contains(part), "{part} in {text}");
        }
    }
}
