//! `#[entity(…)]` and `#[field(…)]`: what the schema says of a collection and its fields.
//!
//! The code made here stands where `__anabranch` is the `anabranch` crate, whatever its path.

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, LitInt, LitStr, Path, Result, Token, token};

/// What `#[entity(…)]` says.
#[derive(Default)]
pub(crate) struct EntityAttributes {
    pub(crate) collection: Option<LitStr>,
    /// Where the `anabranch` crate is found.
    pub(crate) library: Option<Path>,
    /// Statements that set up `collection`.
    pub(crate) settings: TokenStream,
}

/// What `#[field(…)]` says.
#[derive(Default)]
pub(crate) struct FieldAttributes {
    /// Statements that set up `field`.
    pub(crate) settings: TokenStream,
    /// Where it says that the field is cleared when the entity it refers to is deleted.
    pub(crate) nullify: Option<Span>,
}

impl EntityAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut entity = Self::default();
        each(attributes, "entity", |name, meta| {
            match name {
                "collection" => entity.collection = Some(meta.value()?.parse()?),
                "crate" => entity.library = Some(meta.value()?.parse::<LitStr>()?.parse_with(Path::parse_mod_style)?),
                "deletion" => {
                    let deletion = word(meta, &[("edit_wins", "EditWins"), ("delete_wins", "DeleteWins")])?;
                    entity.settings.extend(quote! {
                        collection.deletion = __anabranch::__private::Deletion::#deletion;
                    });
                }
                "policy" => {
                    let policy = policy(meta)?;
                    entity.settings.extend(quote!(collection.policy = ::core::option::Option::Some(#policy);));
                }
                "local" => entity.settings.extend(quote!(collection.local = true;)),
                _ => return Err(meta.error("`entity` takes `collection`, `deletion`, `policy`, `local` and `crate`")),
            }
            Ok(())
        })?;
        Ok(entity)
    }
}

impl FieldAttributes {
    pub(crate) fn parse(attributes: &[Attribute]) -> Result<Self> {
        let mut field = Self::default();
        each(attributes, "field", |name, meta| {
            if name == "on_delete" {
                let words =
                    [("keep", "Keep"), ("restrict", "Restrict"), ("cascade", "Cascade"), ("nullify", "Nullify")];
                let on_delete = word(meta, &words)?;
                field.nullify = (on_delete == "Nullify").then(|| on_delete.span());
                field.settings.extend(quote!(field.on_delete = __anabranch::__private::OnDelete::#on_delete;));
            } else {
                field.settings.extend(setting(name, meta)?);
            }
            Ok(())
        })?;
        Ok(field)
    }
}

/// The statement that one item of `#[field(…)]` becomes.
fn setting(name: &str, meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let some = |value: TokenStream| quote!(::core::option::Option::Some(#value));
    Ok(match name {
        "indexed" => quote!(field.indexed = true;),
        "parent" => quote!(field.parent = true;),
        "required" => quote!(field.rules.required = true;),
        "policy" => {
            let policy = some(policy(meta)?);
            quote!(field.policy = #policy;)
        }
        "key" => {
            let key: LitStr = meta.value()?.parse()?;
            check_name(&key.value(), key.span())?;
            let key = some(quote!(__anabranch::__private::field_name(#key)));
            quote!(field.key = #key;)
        }
        "default" => {
            let default = some(json(meta)?);
            quote!(field.default = #default;)
        }
        "type" | "value_type" => {
            let types = [
                ("string", "String"),
                ("integer", "Integer"),
                ("number", "Number"),
                ("boolean", "Boolean"),
                ("array", "Array"),
                ("object", "Object"),
            ];
            let value_type = word(meta, &types)?;
            let value_type = some(quote!(__anabranch::__private::ValueType::#value_type));
            quote!(field.rules.value_type = #value_type;)
        }
        "min" | "max" => {
            let (bound, number) = (ident(name), number(meta)?);
            quote!(field.rules.#bound = __anabranch::__private::number(&#number);)
        }
        "min_length" | "max_length" => {
            let (bound, length): (_, LitInt) = (ident(name), meta.value()?.parse()?);
            let length = some(quote!(#length));
            quote!(field.rules.#bound = #length;)
        }
        "pattern" => {
            let pattern: LitStr = meta.value()?.parse()?;
            let pattern = some(quote!(::std::string::String::from(#pattern)));
            quote!(field.rules.pattern = #pattern;)
        }
        "one_of" => {
            let values = group(meta, Delimiter::Bracket, "a list of values: `one_of = [1, 2, 3]`")?;
            let values = quote!(__anabranch::__private::json!(#values));
            quote!(field.rules.one_of = __anabranch::__private::values(#values);)
        }
        "check" => {
            let check: LitStr = meta.value()?.parse()?;
            let check = some(quote!(::core::convert::From::from(::std::string::String::from(#check))));
            quote!(field.rules.check = #check;)
        }
        "lens" => lens(meta)?,
        _ => {
            return Err(meta.error(
                "`field` takes `policy`, `indexed`, `parent`, `on_delete`, `default`, `key`, `type`, `required`, `min`, \
                 `max`, `min_length`, `max_length`, `pattern`, `one_of`, `check` and `lens`",
            ));
        }
    })
}

/// `lens`, or `lens(map = { "old": new, … }, otherwise = …)`.
fn lens(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let mut map = quote!({});
    let mut otherwise = quote!(::core::option::Option::None);
    if meta.input.peek(token::Paren) {
        meta.parse_nested_meta(|part| {
            match part.path.get_ident().map(ToString::to_string).as_deref() {
                Some("map") => {
                    let expected = "old values and new ones: `map = { \"high\": 3 }`";
                    map = group(&part, Delimiter::Brace, expected)?;
                }
                Some("otherwise") => {
                    let value = json(&part)?;
                    otherwise = quote!(::core::option::Option::Some(#value));
                }
                _ => return Err(part.error("a lens has a `map` and `otherwise`")),
            }
            Ok(())
        })?;
    }
    Ok(quote! {
        field.lens = ::core::option::Option::Some(
            __anabranch::__private::lens(__anabranch::__private::json!(#map), #otherwise)
        );
    })
}

/// A policy's name, or `custom("name", version)`.
fn policy(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let input = meta.value()?;
    let policies = quote!(__anabranch::__private::Policy);
    if input.peek(LitStr) {
        let name: LitStr = input.parse()?;
        let words = [
            ("lww", "Lww"),
            ("first_writer", "FirstWriter"),
            ("causal", "Causal"),
            ("max", "Max"),
            ("min", "Min"),
            ("manual", "Manual"),
        ];
        let known = among(&name, &words, ", or custom(\"name\", 1)")?;
        return Ok(quote!(#policies::#known));
    }
    let custom: syn::Ident = input.parse()?;
    if custom != "custom" {
        return Err(Error::new(custom.span(), "a policy is a name in quotes, or custom(\"name\", 1)"));
    }
    let arguments;
    syn::parenthesized!(arguments in input);
    let name: LitStr = arguments.parse()?;
    arguments.parse::<Token![,]>()?;
    let version: LitInt = arguments.parse()?;
    Ok(quote!(#policies::Custom(__anabranch::__private::CustomPolicy::new(#name, #version))))
}

/// Calls `visit` with every item of the attributes of this name.
fn each(
    attributes: &[Attribute],
    name: &str,
    mut visit: impl FnMut(&str, &ParseNestedMeta<'_>) -> Result<()>,
) -> Result<()> {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
        attribute.parse_nested_meta(|meta| {
            let item = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            visit(&item, &meta)
        })?;
    }
    Ok(())
}

/// One of some words in quotes, as the variant that it stands for.
fn word(meta: &ParseNestedMeta<'_>, words: &[(&str, &str)]) -> Result<syn::Ident> {
    among(&meta.value()?.parse()?, words, "")
}

fn among(given: &LitStr, words: &[(&str, &str)], or: &str) -> Result<syn::Ident> {
    let found = words.iter().find(|(word, _)| *word == given.value());
    found.map(|(_, variant)| syn::Ident::new(variant, given.span())).ok_or_else(|| {
        let known = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        Error::new(given.span(), format!("{:?} is not one of {known}{or}", given.value()))
    })
}

fn ident(name: &str) -> syn::Ident {
    syn::Ident::new(name, Span::call_site())
}

/// A value written as JSON.
fn json(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let tokens = tokens(meta)?;
    Ok(quote!(__anabranch::__private::json!(#tokens)))
}

/// A number, with or without a sign, as a JSON value.
fn number(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let input = meta.value()?;
    let sign: Option<Token![-]> = input.parse()?;
    let number: syn::Lit = input.parse()?;
    match number {
        syn::Lit::Int(_) | syn::Lit::Float(_) => Ok(quote!(__anabranch::__private::json!(#sign #number))),
        other => Err(Error::new(other.span(), "a bound is a number")),
    }
}

/// One bracketed group.
fn group(meta: &ParseNestedMeta<'_>, delimiter: Delimiter, expected: &str) -> Result<TokenStream> {
    match meta.value()?.parse()? {
        TokenTree::Group(group) if group.delimiter() == delimiter => Ok(quote!(#group)),
        other => Err(Error::new(other.span(), format!("this takes {expected}"))),
    }
}

/// What stands behind the `=`, up to the next comma.
fn tokens(meta: &ParseNestedMeta<'_>) -> Result<TokenStream> {
    let input = meta.value()?;
    let mut tokens = TokenStream::new();
    while !input.is_empty() && !input.peek(Token![,]) {
        tokens.extend([input.parse::<TokenTree>()?]);
    }
    if tokens.is_empty() { Err(input.error("a value is missing")) } else { Ok(tokens) }
}

/// The rules for names of collections and fields, as the schema has them.
pub(crate) fn check_name(name: &str, span: Span) -> Result<()> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if first && rest && name.len() <= 64 {
        return Ok(());
    }
    let rule = "a letter or `_`, then up to 63 letters, digits or `_`";
    Err(Error::new(span, format!("{name:?} cannot be a name in a schema: {rule}")))
}
