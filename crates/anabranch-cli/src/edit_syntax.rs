//! The syntax of `create` and `edit`: `title=Hi stars+=1 tags-=old due:=null 'body[5:8]=abc'`.
//!
//! An argument is a field, perhaps a place in it (`[at]`, `[from:to]`, `[key]`), an operator, and everything
//! that follows as the value. What an operator means depends on the field's kind.

mod intent;

use std::fmt;

pub(crate) use intent::{Target, edits, fields};

/// An argument that cannot be understood; the message names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{argument}`: {reason}")]
pub(crate) struct SyntaxError {
    argument: String,
    reason: String,
}

/// What stands between a field and the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    /// `=`: the value as text.
    Is,
    /// `:=`: the value as JSON.
    IsJson,
    /// `+=`: one more.
    Plus,
    /// `-=`: one less.
    Minus,
}

/// Where in a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// All of it.
    Whole,
    /// `[from:to]`; a missing end is the field's own.
    Range { from: usize, to: Option<usize> },
    /// `[key]` of a map or `[at]` of a list.
    Slot(String),
}

/// An argument, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    argument: String,
    field: String,
    place: Place,
    operator: Operator,
    value: String,
}

const OPERATORS: [(&str, Operator); 4] =
    [(":=", Operator::IsJson), ("+=", Operator::Plus), ("-=", Operator::Minus), ("=", Operator::Is)];

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = OPERATORS.iter().find(|(_, operator)| operator == self);
        f.write_str(found.map_or("=", |(text, _)| text))
    }
}

impl Assignment {
    /// Takes an argument apart.
    pub(crate) fn parse(argument: &str) -> Result<Self, SyntaxError> {
        let error = |reason: &str| SyntaxError { argument: argument.to_owned(), reason: reason.to_owned() };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (field, rest) = argument.split_at(argument.find(|c| !is_name(c)).unwrap_or(argument.len()));
        if field.is_empty() || field.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(error("expected FIELD=VALUE, and a field's name is letters, digits and `_`"));
        }
        let (place, rest) = match rest.strip_prefix('[') {
            None => (Place::Whole, rest),
            Some(inside) => {
                let (place, rest) = inside.split_once(']').ok_or_else(|| error("the `[` is never closed"))?;
                (Place::parse(place).map_err(error)?, rest)
            }
        };
        let found = OPERATORS.iter().find_map(|(text, operator)| Some((*operator, rest.strip_prefix(text)?)));
        let Some((operator, value)) = found else {
            return Err(error("expected one of `=`, `:=`, `+=` and `-=` after the field"));
        };
        let (field, value) = (field.to_owned(), value.to_owned());
        Ok(Self { argument: argument.to_owned(), field, place, operator, value })
    }

    fn error(&self, reason: impl Into<String>) -> SyntaxError {
        SyntaxError { argument: self.argument.clone(), reason: reason.into() }
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let Some((from, to)) = text.split_once(':') else {
            return if text.is_empty() {
                Err("there is nothing in the brackets")
            } else {
                Ok(Self::Slot(text.to_owned()))
            };
        };
        let number = |text: &str, default| match text {
            "" => Ok(default),
            digits => digits.parse().map(Some).map_err(|_| "positions in `[from:to]` are whole numbers"),
        };
        let (from, to) = (number(from, Some(0))?.unwrap_or(0), number(to, None)?);
        if to.is_some_and(|to| to < from) {
            return Err("the range ends before it begins");
        }
        Ok(Self::Range { from, to })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(argument: &str) -> (String, Place, Operator, String) {
        let Assignment { field, place, operator, value, .. } = Assignment::parse(argument).expect(argument);
        (field, place, operator, value)
    }

    #[test]
    fn everything_after_the_first_operator_is_the_value() {
        for (argument, operator, value) in [
            ("title=Hi", Operator::Is, "Hi"),
            ("title=", Operator::Is, ""),
            ("title=a=b:=c+=d", Operator::Is, "a=b:=c+=d"),
            ("title==x", Operator::Is, "=x"),
            ("title:=\"a=b\"", Operator::IsJson, "\"a=b\""),
            ("title+=1", Operator::Plus, "1"),
            ("title-=-1", Operator::Minus, "-1"),
            ("title= \"quoted\" 'twice'\n", Operator::Is, " \"quoted\" 'twice'\n"),
            ("title=größer 🦀 [0:1]", Operator::Is, "größer 🦀 [0:1]"),
        ] {
            assert_eq!(parsed(argument), ("title".to_owned(), Place::Whole, operator, value.to_owned()));
        }
    }

    #[test]
    fn places_are_ranges_or_slots() {
        for (argument, place) in [
            ("f[5:8]=abc", Place::Range { from: 5, to: Some(8) }),
            ("f[5:]=abc", Place::Range { from: 5, to: None }),
            ("f[:5]=abc", Place::Range { from: 0, to: Some(5) }),
            ("f[:]=abc", Place::Range { from: 0, to: None }),
            ("f[3]=abc", Place::Slot("3".to_owned())),
            ("f[größe x]=abc", Place::Slot("größe x".to_owned())),
        ] {
            assert_eq!(parsed(argument), ("f".to_owned(), place, Operator::Is, "abc".to_owned()));
        }
    }

    #[test]
    fn errors_name_the_argument() {
        for argument in
            ["", "=x", "title", "ti tle=x", "größe=x", "1st=x", "f[1=x", "f[]=x", "f[a:b]=x", "f[8:5]=x", "f[1:2]"]
        {
            let error = Assignment::parse(argument).expect_err(argument).to_string();
            assert!(error.starts_with(&format!("`{argument}`: ")), "{error}");
        }
    }
}
