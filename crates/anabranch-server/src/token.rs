//! Bearer tokens: JSON web tokens, signed by HMAC with SHA-256 (HS256), that name the spaces they are good for.
//!
//! There is one algorithm, so there is nothing to confuse: the header must say `HS256`, and is otherwise not heeded.

mod authorizer;

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::{fmt, io};

use anabranch_core::{SpaceName, UnixMillis};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::access::SpacePattern;

pub use authorizer::TokenAuthorizer;

/// The shortest secret, in bytes: as long as what it signs with.
pub const MIN_SECRET_BYTES: usize = 32;
/// The longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;
/// The most patterns in one token.
pub const MAX_TOKEN_SPACES: usize = 256;
/// The longest subject or id, in bytes.
pub const MAX_SUBJECT_BYTES: usize = 128;

/// Why a secret or a token will not do. It never says what is in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The secret is too short to be one.
    #[error("the secret has fewer than {MIN_SECRET_BYTES} bytes")]
    WeakSecret,
    /// A right is none of `r`, `w`, `rw`.
    #[error("a right is `r`, `w` or `rw`")]
    Rights,
    /// It is not a token, or not one of this kind.
    #[error("this is not an HS256 token with the claims that are needed")]
    Malformed,
    /// It was signed with another secret, or altered.
    #[error("the token's signature is wrong")]
    Signature,
    /// It is for somebody else's server.
    #[error("the token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
}

/// What may be done in a space: `r`, `w` or `rw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Pull, follow, show presence, see the overview.
    pub read: bool,
    /// Push.
    pub write: bool,
}

impl FromStr for Rights {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        match text {
            "r" => Ok(Self { read: true, write: false }),
            "w" => Ok(Self { read: false, write: true }),
            "rw" => Ok(Self { read: true, write: true }),
            _ => Err(TokenError::Rights),
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.read { "r" } else { "" })?;
        f.write_str(if self.write { "w" } else { "" })
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who it was given to (`sub`): whose quotas and rates count, and whose replicas are whose.
    pub subject: String,
    /// Its own name (`jti`), by which it can be revoked alone.
    pub id: Option<String>,
    /// For which servers it is (`aud`); none: for any that has its secret and asks for no audience.
    pub audience: Vec<String>,
    /// From when on it is good (`nbf`), in seconds since 1970.
    pub not_before: Option<u64>,
    /// Until when it is good (`exp`), in seconds since 1970.
    pub expires_at: u64,
    /// What may be done where (`spaces`). Rights of several patterns that cover a space add up.
    pub spaces: BTreeMap<SpacePattern, Rights>,
}

impl Claims {
    /// What may be done in a space.
    #[must_use]
    pub fn rights(&self, space: &SpaceName) -> Rights {
        let covering = self.spaces.iter().filter(|(pattern, _)| pattern.covers(space));
        covering.fold(Rights { read: false, write: false }, |sum, (_, rights)| Rights {
            read: sum.read || rights.read,
            write: sum.write || rights.write,
        })
    }
}

/// The secret with which tokens are signed and checked. It is wiped from memory when dropped, and never printed.
#[derive(Clone)]
pub struct TokenSecret(SecretSlice<u8>);

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret([redacted])")
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Extensions that must be understood. There are none.
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aud: Option<Audience>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    exp: u64,
    spaces: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl TokenSecret {
    /// A secret of at least [`MIN_SECRET_BYTES`].
    ///
    /// # Errors
    /// [`TokenError::WeakSecret`].
    pub fn new(secret: &[u8]) -> Result<Self, TokenError> {
        if secret.len() < MIN_SECRET_BYTES { Err(TokenError::WeakSecret) } else { Ok(Self(secret.to_vec().into())) }
    }

    /// The secret in a file, without the line break at its end.
    ///
    /// # Errors
    /// If the file cannot be read, or what is in it is too short ([`std::io::ErrorKind::InvalidData`]).
    pub fn from_file(path: impl AsRef<Path>) -> io::Result<Self> {
        let content: SecretSlice<u8> = std::fs::read(path)?.into();
        let weak = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        Self::new(content.expose_secret().trim_ascii_end()).map_err(weak)
    }

    /// Signs a token.
    ///
    /// ```
    /// use anabranch_server::{Claims, TokenSecret};
    /// let secret = TokenSecret::new(b"32 random bytes, not this phrase")?;
    /// let claims = Claims {
    ///     subject: "ann".to_owned(),
    ///     id: None,
    ///     audience: Vec::new(),
    ///     not_before: None,
    ///     expires_at: 1_900_000_000,
    ///     spaces: [("home".parse()?, "rw".parse()?)].into(),
    /// };
    /// let token = secret.sign(&claims)?;
    /// assert_eq!(secret.verify(&token)?, claims);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TokenError::Malformed`] if the claims are beyond what [`verify`](Self::verify) takes.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let payload = Payload {
            sub: claims.subject.clone(),
            jti: claims.id.clone(),
            aud: (!claims.audience.is_empty()).then(|| Audience::Many(claims.audience.clone())),
            nbf: claims.not_before,
            exp: claims.expires_at,
            spaces: claims.spaces.iter().map(|(space, rights)| (space.to_string(), rights.to_string())).collect(),
        };
        check(&payload)?;
        let payload = serde_json::to_vec(&payload).map_err(|_| TokenError::Malformed)?;
        let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
        let signature = self.mac(signed.as_bytes())?.finalize().into_bytes();
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        if token.len() > MAX_TOKEN_BYTES { Err(TokenError::Malformed) } else { Ok(token) }
    }

    /// What a token says, if it was signed with this secret. Neither its times nor its audience are looked at.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] or [`TokenError::Signature`].
    pub fn verify(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        // Nothing that is not signed is looked into.
        self.mac(signed.as_bytes())?.verify_slice(&decode(signature)?).map_err(|_| TokenError::Signature)?;
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header.alg != "HS256" || header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let payload: Payload = serde_json::from_slice(&decode(payload)?).map_err(|_| TokenError::Malformed)?;
        check(&payload)?;
        claims(payload)
    }

    fn mac(&self, signed: &[u8]) -> Result<Hmac<Sha256>, TokenError> {
        let mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).map_err(|_| TokenError::WeakSecret)?;
        Ok(mac.chain_update(signed))
    }
}

fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)
}

fn check(payload: &Payload) -> Result<(), TokenError> {
    let short = |text: &str| !text.is_empty() && text.len() <= MAX_SUBJECT_BYTES;
    let sound =
        short(&payload.sub) && payload.jti.as_deref().is_none_or(short) && payload.spaces.len() <= MAX_TOKEN_SPACES;
    if sound { Ok(()) } else { Err(TokenError::Malformed) }
}

fn claims(payload: Payload) -> Result<Claims, TokenError> {
    let space = |(pattern, rights): (String, String)| {
        let pattern = pattern.parse().map_err(|_| TokenError::Malformed)?;
        Ok((pattern, rights.parse().map_err(|_| TokenError::Malformed)?))
    };
    Ok(Claims {
        subject: payload.sub,
        id: payload.jti,
        audience: match payload.aud {
            None => Vec::new(),
            Some(Audience::One(audience)) => vec![audience],
            Some(Audience::Many(audiences)) => audiences,
        },
        not_before: payload.nbf,
        expires_at: payload.exp,
        spaces: payload.spaces.into_iter().map(space).collect::<Result<_, TokenError>>()?,
    })
}

/// A moment of a token as the rest of the server counts time.
fn millis(seconds: u64) -> UnixMillis {
    UnixMillis::try_from(seconds.saturating_mul(1_000)).unwrap_or(UnixMillis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> TokenSecret {
        TokenSecret::new(&[7; 32]).unwrap()
    }

    fn signed(header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = secret().mac(signed.as_bytes()).unwrap().finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    const HEADER: &str = r#"{"alg":"HS256"}"#;
    const PAYLOAD: &str = r#"{"sub":"ann","exp":2000,"spaces":{"home":"rw","team:*":"r"}}"#;

    /// The example of RFC 7515, appendix A.1: its signature is as it should be, its claims are not ours.
    #[test]
    fn a_token_of_the_standard_is_read() {
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let token = concat!(
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.",
            "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
        let secret = TokenSecret::new(&decode(key).unwrap()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        secret.mac(signed.as_bytes()).unwrap().verify_slice(&decode(signature).unwrap()).unwrap();
        assert_eq!(secret.verify(token), Err(TokenError::Malformed));
    }

    #[test]
    fn rights_of_several_patterns_add_up() {
        let claims = secret().verify(&signed(HEADER, PAYLOAD)).unwrap();
        let rights = |space: &str| claims.rights(&SpaceName::new(space).unwrap()).to_string();
        assert_eq!([rights("home"), rights("team:a"), rights("other")], ["rw", "r", ""]);
        let both = r#"{"sub":"ann","exp":2000,"spaces":{"*":"r","home":"w"}}"#;
        let claims = secret().verify(&signed(HEADER, both)).unwrap();
        assert_eq!(claims.rights(&SpaceName::new("home").unwrap()).to_string(), "rw");
    }

    #[test]
    fn any_other_token_is_refused() {
        let good = signed(HEADER, PAYLOAD);
        assert!(secret().verify(&good).is_ok());
        for header in
            [r#"{"alg":"none"}"#, r#"{"alg":"hs256"}"#, r#"{"alg":"RS256"}"#, r#"{"alg":"HS256","crit":[]}"#, "{}", ""]
        {
            assert_eq!(secret().verify(&signed(header, PAYLOAD)), Err(TokenError::Malformed), "{header}");
        }
        for payload in [
            r#"{"exp":2000,"spaces":{}}"#,
            r#"{"sub":"","exp":2000,"spaces":{}}"#,
            r#"{"sub":"ann","spaces":{}}"#,
            r#"{"sub":"ann","exp":"2000","spaces":{}}"#,
            r#"{"sub":"ann","exp":-1,"spaces":{}}"#,
            r#"{"sub":"ann","exp":2000}"#,
            r#"{"sub":"ann","exp":2000,"spaces":{"a/b":"r"}}"#,
            r#"{"sub":"ann","exp":2000,"spaces":{"a":"x"}}"#,
            r#"{"sub":"ann","sub":"bob","exp":2000,"spaces":{}}"#,
        ] {
            assert_eq!(secret().verify(&signed(HEADER, payload)), Err(TokenError::Malformed), "{payload}");
        }
        let none = good.rsplit_once('.').unwrap().0;
        for bad in ["", ".", "..", none, &format!("{none}."), &format!("{good}="), &format!("{good}.x")] {
            assert!(secret().verify(bad).is_err(), "{bad}");
        }
        assert_eq!(TokenSecret::new(&[8; 32]).unwrap().verify(&good), Err(TokenError::Signature));
        assert_eq!(secret().verify(&"x".repeat(MAX_TOKEN_BYTES + 1)), Err(TokenError::Malformed));
        assert_eq!(TokenSecret::new(&[7; 31]).err(), Some(TokenError::WeakSecret));
    }

    /// Every character counts: of the signature, and of what it signs.
    #[test]
    fn an_altered_token_is_refused() {
        let good = signed(HEADER, PAYLOAD);
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            assert!(secret().verify(std::str::from_utf8(&bad).unwrap()).is_err(), "{at}");
        }
    }
}
