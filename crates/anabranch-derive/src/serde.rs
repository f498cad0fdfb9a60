//! What serde's own attributes mean for a field's name, and which of them cannot work.

use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, LitStr, Result, Token};

/// What serde is told about the struct.
#[derive(Default)]
pub(crate) struct Container {
    /// What turns a field's Rust name into its serialised one.
    pub(crate) rename_all: Option<Case>,
    /// A field that is missing is taken from a default of the struct's own.
    pub(crate) default: bool,
}

/// What serde is told about a field.
#[derive(Default)]
pub(crate) struct Field {
    /// The serialised name.
    pub(crate) rename: Option<LitStr>,
    /// Neither written nor read.
    pub(crate) skip: bool,
    /// A missing value has a default of its own.
    pub(crate) default: bool,
    /// Functions of the application's convert it, so its Rust type says nothing about the value.
    pub(crate) converted: bool,
}

impl Container {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut container = Self::default();
        each(attributes, |name, meta| {
            match name {
                "rename_all" => container.rename_all = Some(Case::parse(&one_name(meta)?)?),
                "default" => container.default = true,
                "deny_unknown_fields" => {
                    return Err(meta.error(
                        "an entity may have fields of a newer schema: remove `deny_unknown_fields`, \
                         they are kept and left alone",
                    ));
                }
                "transparent" | "tag" | "untagged" | "content" | "from" | "try_from" | "into" | "remote" => {
                    return Err(meta.error(format!(
                        "an entity is an object of named fields: `#[serde({name})]` would make it something else"
                    )));
                }
                _ => {}
            }
            skip_value(meta)
        })?;
        Ok(container)
    }
}

impl Field {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut field = Self::default();
        each(attributes, |name, meta| {
            match name {
                "rename" => field.rename = Some(one_name(meta)?),
                "skip" => field.skip = true,
                "default" => field.default = true,
                "with" | "serialize_with" | "deserialize_with" => field.converted = true,
                "flatten" => {
                    return Err(meta.error(
                        "a flattened field has no name of its own in the schema: write its fields into the struct, \
                         or keep them together in one field (without `flatten`)",
                    ));
                }
                "skip_serializing" | "skip_deserializing" => {
                    return Err(meta.error(format!(
                        "`{name}` makes a field that is only written or only read: use `#[serde(skip)]` to leave \
                         it out of the entity"
                    )));
                }
                _ => {}
            }
            skip_value(meta)
        })?;
        Ok(field)
    }
}

/// Calls `visit` with every item of the `#[serde(…)]` attributes.
fn each(attributes: &[Attribute], mut visit: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute.parse_nested_meta(|meta| {
            let name = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            visit(&name, &meta)
        })?;
    }
    Ok(())
}

/// Reads `= "name"`, or `(serialize = "name", deserialize = "name")` if both are the same.
fn one_name(meta: &ParseNestedMeta<'_>) -> Result<LitStr> {
    if meta.input.peek(Token![=]) {
        return meta.value()?.parse();
    }
    let mut names: Vec<LitStr> = Vec::new();
    meta.parse_nested_meta(|side| {
        names.push(side.value()?.parse()?);
        Ok(())
    })?;
    match names.as_slice() {
        [name, other] if name.value() == other.value() => Ok(name.clone()),
        _ => Err(meta.error("a field has one name, for writing and for reading: use `rename = \"…\"`")),
    }
}

/// Passes over what follows an item that is of no interest here, or has been read.
fn skip_value(meta: &ParseNestedMeta<'_>) -> Result<()> {
    while !meta.input.is_empty() && !meta.input.peek(Token![,]) {
        meta.input.parse::<proc_macro2::TokenTree>()?;
    }
    Ok(())
}

/// The spellings of `#[serde(rename_all = "…")]` that can be names of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
}

impl Case {
    fn parse(name: &LitStr) -> Result<Self> {
        Ok(match name.value().as_str() {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "snake_case" => Self::Snake,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" | "SCREAMING-KEBAB-CASE" => {
                return Err(Error::new(name.span(), "the name of a field has no `-` in it"));
            }
            _ => return Err(Error::new(name.span(), "serde knows no such case")),
        })
    }

    /// The field's name as serde spells it.
    pub(crate) fn apply(self, field: &str) -> String {
        match self {
            Self::Lower | Self::Snake => field.to_owned(),
            Self::Upper | Self::ScreamingSnake => field.to_ascii_uppercase(),
            Self::Pascal => field.split('_').map(capitalised).collect(),
            Self::Camel => {
                let pascal = Self::Pascal.apply(field);
                let mut chars = pascal.chars();
                chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect()
            }
        }
    }
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_as_serde_spells_them() {
        for (case, expected) in [
            (Case::Lower, "due_date"),
            (Case::Upper, "DUE_DATE"),
            (Case::Pascal, "DueDate"),
            (Case::Camel, "dueDate"),
            (Case::Snake, "due_date"),
            (Case::ScreamingSnake, "DUE_DATE"),
        ] {
            assert_eq!(case.apply("due_date"), expected);
        }
    }
}
