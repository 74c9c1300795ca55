//! A proof of possession: the JWT that a browser signs (DBSC, "DBSC Proof JWT Syntax"), parsed strictly and verified by ring.
//!
//! The crates for JWT bring claims, key sets, more algorithms and a choice among them by the token's own header. Here the
//! algorithm is that of the key, and what is left of a JWT is one JSON header, one claim and one signature.
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::{Deserialize, de::IgnoredAny};

use crate::record::{Algorithm, PublicKey};

/// An RSA key of 4096 bits takes 1,600 bytes.
const MAX_BYTES: usize = 4096;

/// The modulus of an RSA key, in bytes: 2048 to 4096 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

const COORDINATE_BYTES: usize = 32;

/// 65537, which every key store uses.
const EXPONENT: &str = "AQAB";

/// Parsed; the signature is not verified yet.
#[derive(Debug)]
pub(crate) struct Proof<'a> {
    algorithm: Algorithm,
    /// Only a registration has it.
    key: Option<PublicKey>,
    pub(crate) challenge: String,
    /// What the signature covers.
    signed: &'a [u8],
    signature: Vec<u8>,
}

/// Why something is no proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProofError {
    TooLong,
    Malformed,
    Type,
    Algorithm,
    Key,
    Signature,
}

impl ProofError {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "the proof is too long",
            Self::Malformed => "the proof is no JWT",
            Self::Type => "the proof is not of type dbsc+jwt",
            Self::Algorithm => "the proof's algorithm is neither ES256 nor RS256, or not that of the key",
            Self::Key => {
                "the proof has a public key where it may have none, or none or another kind where it needs one"
            }
            Self::Signature => "the proof is not signed with the key",
        }
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    typ: &'a str,
    alg: &'a str,
    #[serde(borrow, default)]
    jwk: Option<Jwk<'a>>,
    /// Extensions that must be understood (RFC 7515, 4.1.11); none is.
    crit: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    crv: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
    n: Option<&'a str>,
    e: Option<&'a str>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
}

impl<'a> Proof<'a> {
    pub(crate) fn parse(jwt: &'a [u8]) -> Result<Self, ProofError> {
        if jwt.len() > MAX_BYTES {
            return Err(ProofError::TooLong);
        }
        let mut parts = jwt.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(ProofError::Malformed);
        };
        let signed = jwt.get(..header.len() + 1 + claims.len()).ok_or(ProofError::Malformed)?;
        let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        let header: Header<'_> = serde_json::from_slice(&header).map_err(|_| ProofError::Malformed)?;
        if header.typ != "dbsc+jwt" {
            return Err(ProofError::Type);
        }
        if header.crit.is_some() {
            return Err(ProofError::Malformed);
        }
        let algorithm = match header.alg {
            "ES256" => Algorithm::Es256,
            "RS256" => Algorithm::Rs256,
            _ => return Err(ProofError::Algorithm),
        };
        let key = header.jwk.map(|jwk| jwk.read(algorithm)).transpose()?;
        let Claims { jti: challenge } = serde_json::from_slice(&claims).map_err(|_| ProofError::Malformed)?;
        Ok(Self { algorithm, key, challenge, signed, signature })
    }

    /// The key that a registration brings, which has signed it.
    pub(crate) fn verify_own(&self) -> Result<&PublicKey, ProofError> {
        let key = self.key.as_ref().ok_or(ProofError::Key)?;
        self.verify_with(key)?;
        Ok(key)
    }

    /// Whether the device with this key has signed a refresh, which brings no key (DBSC, "DBSC Proof JWT Syntax").
    pub(crate) fn verify(&self, key: &PublicKey) -> Result<(), ProofError> {
        if self.key.is_some() {
            return Err(ProofError::Key);
        }
        self.verify_with(key)
    }

    fn verify_with(&self, key: &PublicKey) -> Result<(), ProofError> {
        if key.algorithm != self.algorithm {
            return Err(ProofError::Algorithm);
        }
        let bytes = decode(key.text.as_bytes())?;
        let verified = match key.algorithm {
            Algorithm::Es256 => {
                let point = [&[4], &bytes[..]].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(self.signed, &self.signature)
            }
            Algorithm::Rs256 => RsaPublicKeyComponents { n: &bytes[..], e: &[1, 0, 1][..] }.verify(
                &RSA_PKCS1_2048_8192_SHA256,
                self.signed,
                &self.signature,
            ),
        };
        verified.map_err(|_| ProofError::Signature)
    }
}

impl Jwk<'_> {
    fn read(&self, algorithm: Algorithm) -> Result<PublicKey, ProofError> {
        let text = match (algorithm, self) {
            (Algorithm::Es256, Jwk { kty: "EC", crv: Some("P-256"), x: Some(x), y: Some(y), .. }) => {
                let (x, y) = (decode(x.as_bytes())?, decode(y.as_bytes())?);
                if x.len() != COORDINATE_BYTES || y.len() != COORDINATE_BYTES {
                    return Err(ProofError::Key);
                }
                URL_SAFE_NO_PAD.encode([x, y].concat())
            }
            (Algorithm::Rs256, Jwk { kty: "RSA", n: Some(n), e: Some(EXPONENT), .. }) => {
                let modulus = decode(n.as_bytes())?;
                // The first byte is not zero: an integer has one form (RFC 7518, 2).
                if !MODULUS_BYTES.contains(&modulus.len()) || modulus.first().is_none_or(|first| *first < 0x80) {
                    return Err(ProofError::Key);
                }
                (*n).to_owned()
            }
            _ => return Err(ProofError::Key),
        };
        Ok(PublicKey { algorithm, text: text.into() })
    }
}

/// Exactly one text stands for each run of bytes: no padding, no spare bits.
fn decode(text: &[u8]) -> Result<Vec<u8>, ProofError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| ProofError::Malformed)
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };

    use super::*;

    /// Made with openssl, by an RSA key of 2048 bits.
    const RSA_REGISTRATION: &str = "\
        eyJhbGciOiJSUzI1NiIsImp3ayI6eyJlIjoiQVFBQiIsImt0eSI6IlJTQSIsIm4iOiJpYXlEOHcyYzFsUDVuVThOZkRuSm04dnN2SmhkQ21Qa0sz\
        Mlg2TTJUTlFZb1ktWUNxUnVmUW9LRUVxTm1xb0RLdGZQbU5wTTMyS3R2cUNLNlRzNlNTVnhIc3QzZzhBRUpfM3NQbFpOUkxFLWlnb1VMcjFfanRD\
        VGhrUTdjZnJYeUVMSXBRQUM0TEtCS3dCVVhPOGF2cFBMbjUyMjBwRHN0Tl9nRkxGY1doNDM1aktJMHdscXZvZkVoeFB4SFR5Rjg2c3pnRHNJUHRU\
        MFp5Um9Wbm85S1BWSkMtVTN5VVZhWFRoQjU5bmF0RXd4UFJsc2l0MjdSR29QVnE3dDhYZ2VhMGtBV2JMY1dhNFRUV3l0cUxVUDVIVnprMlNhV0VE\
        MnZCeVpaRG50akxhaXpwdTJyWGZlVjRFc0NlVGcxeTJ5UU5NVFpWbTFueGEwNDc5WW1Vb3VxTlEifSwidHlwIjoiZGJzYytqd3QifQ.eyJqdGkiO\
        iJjaGFsbGVuZ2UifQ.B3IDwVbqBWz-UWveK7JZKJFbbo11QkxGT-MK_ldPcC414KICRAK1s7zJL7ZFO_tc7auk-vfuO_141WIA87stmdb2VR8GNH\
        pd3hFgVnY5_a084qY_6RZYxwsMhhPo5vhepB6twpRKpiiWdsgq043XIYTrBAp7PFP5OD-5nZ_2Bj2QHqZ0q6uZdwe0skH8WuszSABopuU_3CV75z\
        iFnrY2A8TL1GiS_gImlFHTFIn38nZWG6yGP1ihF461DXVj74YfIWseKGSo8FV2AAFkOHh-w40vOyCbiVs-Fxe66LEKYpqyyv90LKM50MDDhxsdu4\
        5dSjcOM0aPKmnXaFJtn5QvWg";

    /// By the same key.
    const RSA_REFRESH: &str = "\
        eyJhbGciOiJSUzI1NiIsInR5cCI6ImRic2Mrand0In0.eyJqdGkiOiJjaGFsbGVuZ2UifQ.PmkF3DlKsc9o3TyUvMINEJngrjFPbttHU-16qrsS4\
        0SirLvo2U3a0AeXgk7PSUpPCj3yBD5GHAbmr3kpFRLUVZ7712QHX6UOY4IaMR_lKyt4_CEq8XCkE3DXnDxL85W2uIlnAuy7xWUtUuOq-qgvi4CwT\
        ik5qVEn8aUYLDtRVx7RSmZqbFhSowppk8yJQiqnNsnP67Ju_cNWuzPqaLUemIti5IDvcAPKXfrQEaux_8h49v7EL6uYREFczJ597zxSN2fvtFVvZ\
        V7ksmzQpamGp2sTEc4jf9rrTVnah5wX36RInbzAHCkcCuS8m3VNKZfxWPnW4GO3KolET5-axgUVzw";

    /// By an RSA key of 1024 bits.
    const SMALL_RSA: &str = "\
        eyJhbGciOiJSUzI1NiIsImp3ayI6eyJlIjoiQVFBQiIsImt0eSI6IlJTQSIsIm4iOiJ3YmVYVnR4emFyZm9yNkhkX3lFck82b0paclBEdWZHazl2\
        MGoyMUxDNGdwY0pBZVFGTUZ4WDdId3NEdHl3MThNYVRIQUtkVmxLU2pjVWdtWlBYQl9ZLWdNcF9nUzNQVU5STGhPZHJ1STB2Q3Q2a25nS2did1F5\
        NUFVYld3UGJaTVBYa3RIbENvVkhVRU4xSkRZUkRDWi12anlzejVLSFJYSDZxTHcyQktIbGMifSwidHlwIjoiZGJzYytqd3QifQ.eyJqdGkiOiJja\
        GFsbGVuZ2UifQ.qz5B9Giwt97Ia8SKgJv3jSbCOEV1Byj-e2VadYYFKO4oMWk6iH-qtM3Z1n_qUBHcF49tf9X3jE3qtgyrBR1wZFkjYz6vSxBNi8\
        zM4Wny4oUwGOQ4T0Z5qEl7T9gVNrSX-R8Noqe7WheSjFjw1T_8FCR6KyN5BasK4tPIajerzaM";

    struct TestDevice {
        pair: EcdsaKeyPair,
        jwk: String,
    }

    impl TestDevice {
        fn new() -> Self {
            let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
            let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
            let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
            let jwk = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
            Self { pair, jwk }
        }

        /// A JWT of these two parts.
        fn sign(&self, header: &str, claims: &str) -> String {
            let text = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
            let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).unwrap();
            format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        fn registration(&self) -> String {
            let jwk = &self.jwk;
            self.sign(&format!(r#"{{"alg":"ES256","jwk":{jwk},"typ":"dbsc+jwt"}}"#), r#"{"jti":"challenge"}"#)
        }

        fn refresh(&self) -> String {
            self.sign(r#"{"alg":"ES256","typ":"dbsc+jwt"}"#, r#"{"jti":"challenge"}"#)
        }
    }

    fn registered(jwt: &str) -> Result<PublicKey, ProofError> {
        Proof::parse(jwt.as_bytes())?.verify_own().cloned()
    }

    fn refreshed(jwt: &str, key: &PublicKey) -> Result<String, ProofError> {
        let proof = Proof::parse(jwt.as_bytes())?;
        proof.verify(key).map(|()| proof.challenge)
    }

    #[test]
    fn a_key_registers_and_proves_itself_again() {
        let signer = TestDevice::new();
        for (registration, refresh) in
            [(signer.registration(), signer.refresh()), (RSA_REGISTRATION.to_owned(), RSA_REFRESH.to_owned())]
        {
            let key = registered(&registration).unwrap();
            assert_eq!(refreshed(&refresh, &key).as_deref(), Ok("challenge"));
            assert_eq!(refreshed(&registration, &key), Err(ProofError::Key), "a refresh brings no key");
            assert_eq!(registered(&refresh), Err(ProofError::Key));
        }
    }

    #[test]
    fn a_proof_of_another_key_or_of_another_algorithm_is_refused() {
        let (one, other) = (TestDevice::new(), TestDevice::new());
        let (key, rsa) = (registered(&one.registration()).unwrap(), registered(RSA_REGISTRATION).unwrap());
        assert_eq!(refreshed(&other.refresh(), &key), Err(ProofError::Signature));
        assert_eq!(refreshed(RSA_REFRESH, &key), Err(ProofError::Algorithm));
        assert_eq!(refreshed(&one.refresh(), &rsa), Err(ProofError::Algorithm));
        let foreign =
            other.sign(&format!(r#"{{"alg":"ES256","jwk":{},"typ":"dbsc+jwt"}}"#, one.jwk), r#"{"jti":"challenge"}"#);
        assert_eq!(registered(&foreign), Err(ProofError::Signature));
        assert_eq!(registered(SMALL_RSA), Err(ProofError::Key));
        // An RSA key whose text stands for an elliptic one, and the other way round.
        for (key, jwt) in [(&rsa, one.refresh()), (&key, RSA_REFRESH.to_owned())] {
            let algorithm = if key.algorithm == Algorithm::Es256 { Algorithm::Rs256 } else { Algorithm::Es256 };
            let confused = PublicKey { algorithm, text: key.text.clone() };
            assert_eq!(refreshed(&jwt, &confused), Err(ProofError::Signature));
        }
    }

    #[test]
    fn every_bit_of_a_proof_counts() {
        let signer = TestDevice::new();
        for (registration, refresh) in
            [(signer.registration(), signer.refresh()), (RSA_REGISTRATION.to_owned(), RSA_REFRESH.to_owned())]
        {
            let key = registered(&registration).unwrap();
            for at in 0..refresh.len() * 8 {
                let mut jwt = refresh.clone().into_bytes();
                jwt[at / 8] ^= 1 << (at % 8);
                let refused = Proof::parse(&jwt).and_then(|proof| proof.verify(&key));
                assert!(refused.is_err(), "bit {at}");
            }
            for at in 0..registration.len() * 8 {
                let mut jwt = registration.clone().into_bytes();
                jwt[at / 8] ^= 1 << (at % 8);
                let refused = Proof::parse(&jwt).and_then(|proof| proof.verify_own().map(|_| ()));
                assert!(refused.is_err(), "bit {at} of the registration");
            }
            for length in 0..refresh.len() {
                let cut = Proof::parse(&refresh.as_bytes()[..length]).and_then(|proof| proof.verify(&key));
                assert!(cut.is_err(), "{length} bytes");
            }
        }
    }

    #[test]
    fn what_a_proof_must_be_is_checked_before_its_signature() {
        let signer = TestDevice::new();
        let jwk = &signer.jwk;
        let claims = r#"{"jti":"challenge"}"#;
        let key = |jwk: &str| format!(r#"{{"alg":"ES256","jwk":{jwk},"typ":"dbsc+jwt"}}"#);
        for (header, refused) in [
            (r#"{"alg":"ES256","typ":"jwt"}"#.to_owned(), ProofError::Type),
            (r#"{"alg":"ES256","typ":"DBSC+JWT"}"#.to_owned(), ProofError::Type),
            (r#"{"alg":"ES256"}"#.to_owned(), ProofError::Malformed),
            (r#"{"typ":"dbsc+jwt"}"#.to_owned(), ProofError::Malformed),
            (r#"{"alg":"none","typ":"dbsc+jwt"}"#.to_owned(), ProofError::Algorithm),
            (r#"{"alg":"HS256","typ":"dbsc+jwt"}"#.to_owned(), ProofError::Algorithm),
            (r#"{"alg":"es256","typ":"dbsc+jwt"}"#.to_owned(), ProofError::Algorithm),
            (r#"{"alg":"ES256","typ":"dbsc+jwt","crit":["exp"]}"#.to_owned(), ProofError::Malformed),
            (r#"{"alg":"ES256","alg":"ES256","typ":"dbsc+jwt"}"#.to_owned(), ProofError::Malformed),
            (r#"{"alg":"ES256","typ":"dbsc+jwt"} x"#.to_owned(), ProofError::Malformed),
            (r#"["ES256","dbsc+jwt"]"#.to_owned(), ProofError::Malformed),
            (key("{}"), ProofError::Malformed),
            (key(r#"{"kty":"oct","k":"AAAA"}"#), ProofError::Key),
            (key(&jwk.replace("P-256", "P-384")), ProofError::Key),
            (key(&jwk.replace("\"EC\"", "\"RSA\"")), ProofError::Key),
            (key(r#"{"crv":"P-256","kty":"EC","x":"AAAA","y":"AAAA"}"#), ProofError::Key),
            (format!(r#"{{"alg":"RS256","jwk":{jwk},"typ":"dbsc+jwt"}}"#), ProofError::Key),
        ] {
            assert_eq!(registered(&signer.sign(&header, claims)), Err(refused), "{header}");
        }
        for claims in ["{}", r#"{"jti":1}"#, r#"{"jti":"a","jti":"a"}"#, "", "null", "[\"a\"]x", &"[".repeat(500)] {
            assert_eq!(registered(&signer.sign(&key(jwk), claims)), Err(ProofError::Malformed), "{claims}");
        }
        assert_eq!(registered(&"a".repeat(MAX_BYTES + 1)), Err(ProofError::TooLong));
        for text in ["", ".", "..", "...", "a.b.c", "=.=.=", &format!("{}.a", signer.refresh())] {
            assert_eq!(registered(text), Err(ProofError::Malformed), "{text}");
        }
    }
}
