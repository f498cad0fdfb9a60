//! `#[derive(Entity)]`: a serde struct as a collection of an Anabranch schema.
//!
//! Applications use it through the `anabranch` crate, which documents it.

mod attributes;
mod entity;
mod serde;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Makes a struct with serde's derives an entity. `anabranch::Entity` says what its attributes mean.
#[proc_macro_derive(Entity, attributes(entity, field))]
pub fn derive_entity(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    entity::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}
