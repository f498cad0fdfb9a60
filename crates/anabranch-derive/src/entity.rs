//! The expansion of `#[derive(Entity)]`.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned as _;
use syn::{Data, DeriveInput, Error, Fields, GenericArgument, Ident, PathArguments, PathSegment, Result, Type};

use crate::attributes::{EntityAttributes, FieldAttributes, check_name};
use crate::serde;

/// The types that are a field of their own, and so cannot be a part of another.
const WHOLE: [&str; 3] = ["Text", "Counter", "Set"];
/// Those that can be nested in each other, but in nothing else.
const NESTED: [&str; 2] = ["List", "Map"];

/// A field of the struct that is a field of the collection.
struct Field<'a> {
    ident: &'a Ident,
    ty: &'a Type,
    name: String,
    attributes: FieldAttributes,
    /// Its Rust type does not tell what it is serialised as.
    converted: bool,
    /// What is missing takes the type's default, unless serde has another.
    filled: bool,
}

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let fields = named_fields(input)?;
    if let Some(parameter) = input.generics.params.first() {
        let message = "an entity has no type parameters or lifetimes: a collection holds entities of one shape, \
                       which own what they hold";
        return Err(Error::new(parameter.span(), message));
    }
    let entity = EntityAttributes::parse(&input.attrs)?;
    let container = serde::Container::parse(&input.attrs)?;
    let mut planned = Vec::new();
    for field in fields {
        planned.extend(plan(field, &container)?);
    }
    let (collection, span) = match &entity.collection {
        Some(name) => (name.value(), name.span()),
        None => (format!("{}s", snake(&input.ident.to_string())), input.ident.span()),
    };
    check_name(&collection, span)?;

    let ident = &input.ident;
    let settings = &entity.settings;
    let declared = planned.iter().map(Field::declare);
    let filled = planned.iter().filter(|field| field.filled).map(Field::fill);
    let recorded = planned.iter().map(Field::record);
    let library = entity.library.as_ref().map_or_else(|| quote!(::anabranch), |path| quote!(#path));
    // Says so at compile time if the name is taken.
    let free = quote_spanned!(span=> const _: () = #library::__private::check_collection_name(#collection););
    Ok(quote! {
        #free

        const _: () = {
            use #library as __anabranch;

            #[automatically_derived]
            impl __anabranch::Entity for #ident {
                const COLLECTION: &'static str = #collection;

                fn describe() -> __anabranch::__private::Collection {
                    #[allow(unused_imports)]
                    use __anabranch::__private::Register as _;
                    let mut collection = <__anabranch::__private::Collection as ::core::default::Default>::default();
                    #settings
                    #(#declared)*
                    collection
                }

                fn complete(fields: &mut __anabranch::__private::Fields) {
                    #[allow(unused_imports)]
                    use __anabranch::__private::NoDefault as _;
                    #(#filled)*
                }

                fn record(&self, changes: &mut __anabranch::__private::Changes<'_>) {
                    #[allow(unused_imports)]
                    use __anabranch::__private::Register as _;
                    #(#recorded)*
                }
            }
        };
    })
}

impl Field<'_> {
    /// What the field's type makes of it. Resolves at compile time, so aliases and imports do not matter.
    fn shape(&self) -> TokenStream {
        let ty = self.ty;
        match self.converted {
            true => quote_spanned!(ty.span()=> __anabranch::__private::Shape::<__anabranch::__private::Converted>),
            false => quote_spanned!(ty.span()=> __anabranch::__private::Shape::<#ty>),
        }
    }

    fn declare(&self) -> TokenStream {
        let (shape, name, settings) = (self.shape(), &self.name, &self.attributes.settings);
        quote! {{
            #[allow(unused_mut)]
            let mut field = #shape::field();
            #settings
            collection.fields.insert(__anabranch::__private::field_name(#name), field);
        }}
    }

    fn fill(&self) -> TokenStream {
        let (ty, name) = (self.ty, &self.name);
        quote_spanned!(ty.span()=> fields.fill(#name, __anabranch::__private::Absent::<#ty>::value);)
    }

    fn record(&self) -> TokenStream {
        let (shape, name, ident) = (self.shape(), &self.name, self.ident);
        let value = match self.converted {
            true => quote!(&__anabranch::__private::Converted),
            false => quote!(&self.#ident),
        };
        quote!(changes.of(#name, |change, edits| #shape::edits(#value, change, edits));)
    }
}

fn named_fields(input: &DeriveInput) -> Result<impl Iterator<Item = &syn::Field>> {
    let message = match &input.data {
        Data::Struct(data) => match &data.fields {
            Fields::Named(fields) => return Ok(fields.named.iter()),
            _ => "an entity is an object of named fields: give the fields of this struct names",
        },
        Data::Enum(_) => {
            "an entity is a struct, so that concurrent edits of different fields merge: put the enum into a field of one"
        }
        Data::Union(_) => "an entity is a struct",
    };
    Err(Error::new(input.ident.span(), message))
}

fn plan<'a>(field: &'a syn::Field, container: &serde::Container) -> Result<Option<Field<'a>>> {
    let Some(ident) = &field.ident else { return Ok(None) };
    let attributes = FieldAttributes::parse(&field.attrs)?;
    let serde = serde::Field::parse(&field.attrs)?;
    if serde.skip {
        return Ok(None);
    }
    let rust_name = ident.to_string();
    let rust_name = rust_name.strip_prefix("r#").unwrap_or(&rust_name);
    let renamed = || container.rename_all.map_or_else(|| rust_name.to_owned(), |case| case.apply(rust_name));
    let (name, span) = match &serde.rename {
        Some(name) => (name.value(), name.span()),
        None => (renamed(), ident.span()),
    };
    check_name(&name, span)?;
    if name.eq_ignore_ascii_case("id") {
        let message = "`id` is the entity's own id, which its record has: give the field another name";
        return Err(Error::new(span, message));
    }
    check_nesting(&field.ty, None)?;
    if let Some(span) = attributes.nullify.filter(|_| last_segment(&field.ty).is_some_and(|it| it.ident == "Reference"))
    {
        let message = "a reference that can be cleared is an `Option<Reference<…>>`";
        return Err(Error::new(span, message));
    }
    let filled = !(serde.default || container.default || serde.converted);
    Ok(Some(Field { ident, ty: &field.ty, name, attributes, converted: serde.converted, filled }))
}

/// Refuses types that merge where they cannot: inside others. (An alias gets past this, and is opaque there.)
fn check_nesting(ty: &Type, outer: Option<&str>) -> Result<()> {
    let Some(last) = last_segment(ty) else { return Ok(()) };
    let name = last.ident.to_string();
    let nested = NESTED.contains(&name.as_str());
    match outer {
        Some("Option") if nested || WHOLE.contains(&name.as_str()) => {
            let message = format!("a field of type `{name}` is never absent, only empty: write it without `Option`");
            return Err(Error::new(ty.span(), message));
        }
        Some(outer) if WHOLE.contains(&name.as_str()) => {
            let message = format!(
                "`{name}` merges only as a field of an entity, not inside `{outer}`: make it a field of its own, or \
                 make what it belongs to an entity"
            );
            return Err(Error::new(ty.span(), message));
        }
        Some(outer) if nested && !NESTED.contains(&outer) => {
            let message = format!("`{name}` merges only as a field or inside `List` and `Map`, not inside `{outer}`");
            return Err(Error::new(ty.span(), message));
        }
        _ => {}
    }
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return Ok(()) };
    arguments.args.iter().try_for_each(|argument| match argument {
        GenericArgument::Type(inner) => check_nesting(inner, Some(&name)),
        _ => Ok(()),
    })
}

/// `List<T>` of `anabranch::List<T>`.
fn last_segment(ty: &Type) -> Option<&PathSegment> {
    if let Type::Path(path) = ty { path.path.segments.last() } else { None }
}

/// `TodoItem` as `todo_item`.
fn snake(name: &str) -> String {
    let mut snake = String::new();
    let chars: Vec<char> = name.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let after_lower = at > 0 && !chars[at - 1].is_ascii_uppercase() && chars[at - 1] != '_';
        let ends_capitals = at > 0 && chars.get(at + 1).is_some_and(char::is_ascii_lowercase);
        if c.is_ascii_uppercase() && (after_lower || (ends_capitals && chars[at - 1] != '_')) {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_where_the_struct_says() {
        let expanded = |crate_path: TokenStream| {
            let input: DeriveInput = syn::parse_quote! {
                #[entity(#crate_path deletion = "delete_wins", policy = "max")]
                struct Note {
                    #[field(one_of = ["a"], key = "old", check = "c", lens, on_delete = "keep", min = 1, default = 1)]
                    title: String,
                    #[serde(with = "x")]
                    size: u8,
                }
            };
            expand(&input).unwrap().to_string()
        };
        let usual = expanded(quote!());
        assert_eq!(usual.matches(":: anabranch").count(), 2, "{usual}");
        let moved = expanded(quote!(crate = "crate::facade::replication",));
        assert_eq!(moved, usual.replace(":: anabranch", "crate :: facade :: replication"));
    }

    #[test]
    fn collections_are_named_after_their_struct() {
        for (name, expected) in [
            ("Note", "note"),
            ("TodoItem", "todo_item"),
            ("HTTPRequest", "http_request"),
            ("Version2Note", "version2_note"),
            ("A", "a"),
            ("Already_Snake", "already_snake"),
        ] {
            assert_eq!(snake(name), expected);
        }
    }
}
