//! `token`: signs a token for development.

use anabranch_core::Environment as _;
use anabranch_server::{Claims, SystemEnvironment, TokenSecret};
use serde_json::json;

use crate::args::Token;
use crate::error::CliError;
use crate::output::Output;

pub(crate) fn run(arguments: Token, output: &mut Output) -> Result<(), CliError> {
    let Token { secret_file, spaces, ttl, subject, audience } = arguments;
    let secret = TokenSecret::from_file(&secret_file).map_err(|error| CliError::path("use", &secret_file, &error))?;
    let now = u64::try_from(SystemEnvironment.now()).unwrap_or_default() / 1_000;
    let claims = Claims {
        subject,
        id: None,
        audience: audience.into_iter().collect(),
        not_before: None,
        expires_at: now.saturating_add(ttl),
        spaces: spaces.into_iter().collect(),
    };
    let token = secret.sign(&claims).map_err(|_| {
        CliError::Usage("a token cannot say this: too many spaces, or a subject that is empty or too long".to_owned())
    })?;
    output.either(&json!({ "token": token, "expires_at": claims.expires_at }), &token)
}
