//! [`Entity`], and the `schema!` that entities make.

use anabranch_core::Collection;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::shape::Changes;

/// A struct that is the shape of a collection's entities. Derived, never written by hand.
///
/// ```
/// use anabranch::{Counter, Entity, Map, Reference, Set, Text, schema};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Entity, Serialize, Deserialize, Default)]
/// struct Folder {
///     #[field(required, max_length = 80)]
///     name: String,
/// }
///
/// #[derive(Entity, Serialize, Deserialize, Default)]
/// #[entity(deletion = "delete_wins")]
/// struct Note {
///     title: String,                  // a register: the last writer wins
///     body: Text,                     // merges by character
///     stars: Counter,                 // sums
///     tags: Set<String>,              // merges by member
///     prices: Map<f64>,               // merges by key
///     #[field(policy = "manual", indexed)]
///     due: Option<String>,            // a register whose conflicts a person settles
///     #[field(parent, on_delete = "cascade")]
///     folder: Option<Reference<Folder>>,
/// }
///
/// let schema = schema![Note, Folder];
/// assert_eq!(schema.collections["notes"].fields.len(), 7);
/// ```
///
/// # Fields
/// A field's Rust type says its kind: [`Text`](crate::Text), [`Counter`](crate::Counter), [`Set`](crate::Set),
/// [`List`](crate::List), [`Map`](crate::Map), [`Reference`](crate::Reference) (or an `Option` of one) are what
/// they are called; every other type that serde serialises is a *register*, written as a whole. Registers of
/// integers, floats, strings and booleans, and options of them, get the `type` rule by themselves, and integers
/// their type's bounds (`u8`: `min = 0, max = 255`). A float must be finite to be written.
///
/// A field's name is its serialised one: `#[serde(rename)]` and `rename_all` count, and a field that is
/// `#[serde(skip)]`ped is none. A field that an entity has no value for (it is from an older schema version, say)
/// takes its type's `Default`, or what `#[serde(default)]` says. Fields of an entity that the struct does not know
/// are left alone.
///
/// What a default shows is not in the document. The first edit of a field that merges, but has a default that is
/// not empty, writes the default with it; two replicas that do so apart both write it. To begin with a value is
/// better done where the entity is created.
///
/// # `#[entity(…)]`
/// - `collection = "name"`: the default is the struct's name in lower snake case, and an `s`.
/// - `deletion = "edit_wins"` (the default) or `"delete_wins"`.
/// - `policy = "…"`: for fields that have none of their own.
/// - `local`: its entities stay in this file; they are never pushed, exchanged or compared.
/// - `crate = "path"`: where this crate is found, if not at `::anabranch`: for one that re-exports it.
///
/// # `#[field(…)]`
/// - `policy = "lww"` (the default), `"first_writer"`, `"causal"`, `"max"`, `"min"`, `"manual"`, or
///   `policy = custom("name", 1)` with a function that is registered when the replica is opened.
/// - `indexed`: the store keeps an SQL index.
/// - `parent`, `on_delete = "keep"` (the default), `"restrict"`, `"cascade"`, `"nullify"`: for references.
/// - `default = …`: what a register shows while it has no value, written as JSON.
/// - `key = "old_name"`: the name under which documents hold the field, when it has been renamed.
/// - `required`, `min = …`, `max = …`, `min_length = …`, `max_length = …`, `pattern = "…"`, `one_of = [ … ]`,
///   `check = "name"`, `type = "integer"`: rules that a local write must fulfil.
/// - `lens`, or `lens(map = { "old": new, … }, otherwise = …)`: how values of older schema versions are read.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an entity",
    label = "not an entity",
    note = "add `#[derive(Entity, Serialize, Deserialize)]` to the struct"
)]
pub trait Entity: Serialize + DeserializeOwned + Send + 'static {
    /// The name of its collection.
    const COLLECTION: &'static str;

    /// The collection, as the schema has it.
    #[doc(hidden)]
    fn describe() -> Collection;

    /// Fills in what has no value.
    #[doc(hidden)]
    fn complete(fields: &mut super::private::Fields);

    /// Records what an edit did.
    #[doc(hidden)]
    fn record(&self, changes: &mut Changes<'_>);
}

/// The fields of an entity, as JSON.
pub(super) type Object = Map<String, Value>;

/// A [`Schema`](crate::Schema) of entities: `schema![Note, Folder]`, or `schema![version = 2; Note, Folder]`.
///
/// The version is 1 if none is given, and is raised whenever an entity changes. What cannot be a schema is found
/// out when the replica is opened.
#[macro_export]
macro_rules! schema {
    (version = $version:expr; $($entity:ty),+ $(,)?) => {{
        const _: () = $crate::__private::check_distinct(&[$(<$entity as $crate::Entity>::COLLECTION),+]);
        $crate::__private::schema($version, [$($crate::__private::entry::<$entity>()),+])
    }};
    ($($entity:ty),+ $(,)?) => {
        $crate::schema![version = 1; $($entity),+]
    };
}
