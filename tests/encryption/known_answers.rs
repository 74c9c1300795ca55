//! Entries that were made by another implementation: a later version reads what this one wrote.
//!
//! With the package `cryptography` of Python:
//!
//! ```text
//! def expand(key, info): return HKDFExpand(SHA256(), 32, info).derive(key)
//! head = b"\1" + expand(key, b"cloakroom encryption key id 1")[:4]
//! of_entry = expand(expand(key, b"cloakroom encryption entries 1"), cache_key)
//! sealed = head + nonce + AESGCM(of_entry).encrypt(nonce, value, head + cache_key)
//! ```
use super::*;

const SESSION: &str = "cloakroom:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
/// 32 bytes that count up from 0, and down from 255.
const UP: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const DOWN: &str = "//79/Pv6+fj39vX08/Lx8O/u7ezr6uno5+bl5OPi4eA=";

/// Key, cache key, value, and the entry.
fn answers() -> [(&'static str, String, Vec<u8>, &'static str); 5] {
    [
        (UP, SESSION.into(), vec![], "0159f1f371000102030405060708090a0b2a7f75e3b29d55443d9784fea015b798"),
        (
            UP,
            SESSION.into(),
            br#"{"user":"alice"}"#.into(),
            "0159f1f3710000000000000000000000004cfe8eb4ca99739ac5fcb776bf98cc0d9be23dfd87df6a25d35b90c56d4cb57f",
        ),
        (
            DOWN,
            SESSION.into(),
            br#"{"user":"alice"}"#.into(),
            "016111e119ffffffffffffffffffffffff7413d51147005726271f5788f5437ae23efc56fb3fd5cd0577d3adca0457be7a",
        ),
        (
            DOWN,
            format!("pr\u{e9}fixe:{}", "k".repeat(100)),
            (0..=255).collect(),
            "016111e1196465666768696a6b6c6d6e6f0f928fb85d2ef5979416e5674f6b71d5ee0d72fe7165ecb57491438876c5c8a701a0101c92\
             98709fff60f4fcdbee651c2ae0d3fc1ac1ed2c2d27e849a33492fbbc1e601b3a243efa0f0a42c22833998588557f86623b2961cc0604\
             6857cbc560ff3d44290c15ad5d61dea4c6dba5982f56a7a3dc0e27fb3c03f921fcdd7a827271c4ab9d7c9131a2df83045c94c2994152\
             8ae5d85b8bdc384e7450cefae1cb15a84cd884535ce58c04bfa239720a324bb2f79768207b381b5bb6e07d780ea26c4d0b358565fe9e\
             8a1ed28a300a2f443d9668817869c11bd1f60a10aa042b92b9dc61a11ac7c06fa49b776a7486920f139afcf3c2b934b442ad23c306bc\
             032b51e5cd9ef12f9e8e64de9d30857ba5b2ed",
        ),
        (UP, String::new(), b"x".into(), "0159f1f371000102030405060708090a0bb0fb9a51a7a8069d81bca6ef7d64b6a329"),
    ]
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn entries_of_another_implementation_are_read() {
    for (at, (key, cache_key, plain, sealed)) in answers().into_iter().enumerate() {
        let inside = InMemoryCache::new();
        let version = put(&inside, &cache_key, bytes(sealed)).await;
        for keys in [&[key][..], &[UP, DOWN], &[DOWN, UP]] {
            let keys = keys.iter().map(|text| EncryptionKey::from_base64(text).unwrap());
            let cache = EncryptedCache::new(inside.clone(), keys).unwrap();
            let read = get(&cache, &cache_key).await.unwrap();
            assert!(read == Entry::new(plain.clone().into(), version), "answer {at}: {read:?}");
        }
    }
}

#[tokio::test]
async fn what_is_written_has_the_form_of_the_answers() {
    let (cache, inside) = memory(&[1]);
    for length in [0, 1, 15, 16, 17, 200, 65_536] {
        let name = format!("k{length}");
        let version = put(&cache, &name, vec![b'v'; length]).await;
        let first = get(&inside, &name).await.unwrap();
        assert_eq!(first.version, version);
        assert_eq!(first.value.len(), length + 33, "one byte of format, four of key ID, 12 of nonce, 16 of tag");
        let again = entry(vec![b'v'; length]);
        assert_eq!(cache.replace(&name, version, again, hour()).await.unwrap(), cloakroom::Replaced::Done);
        let second = value(&inside, &name).await;
        assert_eq!(first.value[..5], second[..5], "format and key ID");
        assert_ne!(first.value[5..17], second[5..17], "a nonce of its own for every write");
        assert_ne!(first.value[17..], second[17..]);
    }
}
