//! Texts for editors: splices and cursors.

use super::*;

fn body(replica: &Replica) -> String {
    replica.field("body").as_str().unwrap_or_default().to_owned()
}

fn splice(at: usize, delete: usize, insert: &str) -> Edit {
    Edit::Splice { field: field("body"), at, delete, insert: insert.to_owned() }
}

fn splices(replica: &Replica, since: &Heads) -> Vec<TextSplice> {
    replica.document.text_splices(&notes(), &field("body"), since).unwrap()
}

/// The text after the splices, made one after the other.
fn spliced(text: &str, splices: &[TextSplice]) -> String {
    let mut text: Vec<char> = text.chars().collect();
    for TextSplice { at, delete, insert } in splices {
        text.splice(*at..at + delete, insert.chars());
    }
    text.into_iter().collect()
}

fn plain(at: usize, delete: usize, insert: &str) -> TextSplice {
    TextSplice { at, delete, insert: insert.to_owned() }
}

#[test]
fn splices_tell_what_has_been_written_since() {
    let mut a = Replica::create(1, json!({ "body": "one two three" }));
    let mut b = a.twin(2);
    let since = a.document.heads();
    assert_eq!(splices(&a, &since), []);
    b.edit(2, &[splice(0, 0, "😀 ")]);
    b.edit(3, &[splice(6, 3, "2")]);
    b.edit(4, &[splice(8, 5, "")]);
    a.pull(&b);
    assert_eq!(body(&a), "😀 one 2 ");
    assert_eq!(splices(&a, &since), [plain(0, 0, "😀 "), plain(6, 3, "2"), plain(8, 5, "")]);
    assert_eq!(splices(&a, &Heads::default()), [plain(0, 0, "😀 one 2 ")], "since before it was born");
    assert_eq!(splices(&a, &b.document.heads()), []);
}

#[test]
fn splices_leave_out_what_was_known() {
    let mut a = Replica::create(1, json!({ "body": "one two three" }));
    let mut b = a.twin(2);
    // Both delete the same word, and both write beside it.
    b.edit(2, &[splice(4, 4, ""), splice(0, 0, "B")]);
    a.edit(3, &[splice(3, 5, "--"), splice(0, 0, "A")]);
    let since = a.document.heads();
    let before = body(&a);
    a.pull(&b);
    let made = splices(&a, &since);
    assert_eq!(spliced(&before, &made), body(&a));
    assert_eq!(made.iter().map(|splice| splice.delete).sum::<usize>(), 0, "{made:?}");
}

#[test]
fn splices_need_heads_and_a_text() {
    let a = Replica::create(1, json!({ "title": "x" }));
    let heads = Heads::new(vec![ChangeHash::from_bytes([7; 32])]);
    let of = |name: &str, heads: &Heads| a.document.text_splices(&notes(), &field(name), heads);
    assert_eq!(of("body", &heads), Err(DocumentError::UnknownHeads));
    assert_eq!(of("title", &a.document.heads()), Err(DocumentError::NotText(field("title"))));
    assert_eq!(of("nothing", &a.document.heads()), Err(DocumentError::NotText(field("nothing"))));
    assert_eq!(of("body", &a.document.heads()), Ok(vec![]), "not born yet");
}

#[test]
fn cursors_move_with_their_character() {
    let mut a = Replica::create(1, json!({ "body": "one two" }));
    let mut b = a.twin(2);
    let cursor = |replica: &Replica, at| replica.document.text_cursor(&notes(), &field("body"), at).unwrap();
    let position =
        |replica: &Replica, cursor: &str| replica.document.text_position(&notes(), &field("body"), cursor).unwrap();
    let (two, end) = (cursor(&a, 4), cursor(&a, 7));
    b.edit(2, &[splice(0, 0, "😀😀 ")]);
    a.pull(&b);
    assert_eq!((position(&a, &two), position(&a, &end)), (7, 10));
    assert_eq!(position(&b, &two), 7, "on every replica");
    b.edit(3, &[splice(5, 3, "")]);
    a.pull(&b);
    assert_eq!(body(&a), "😀😀 onwo");
    assert_eq!((position(&a, &two), position(&a, &end)), (5, 7), "where the character was");
}

#[test]
fn only_a_cursor_of_the_text_has_a_place() {
    let schema = SCHEMA.replace("title = { kind = \"register\" }", "title = { kind = \"text\" }");
    let schema = Schema::from_toml(&schema).unwrap().collections["notes"].clone();
    let mut document = Document::new(&actor(1));
    let fields = json!({ "body": "one", "title": "two" });
    document.create(&name(), &schema, at(1), fields.as_object().unwrap()).unwrap();
    let title = document.text_cursor(&schema, &field("title"), 1).unwrap();
    for cursor in ["", "x", "é1@", "-", "1@zz", "99@0101", "3@ff", "@", title.as_str()] {
        let place = document.text_position(&schema, &field("body"), cursor);
        assert_eq!(place, Err(DocumentError::UnknownCursor), "{cursor}");
    }
    let beyond = document.text_cursor(&schema, &field("body"), 4);
    assert_eq!(beyond, Err(DocumentError::OutOfRange { at: 4, length: 3 }));
    // A text that nobody has written yet has one place.
    let unborn = Replica::create(2, json!({}));
    let end = unborn.document.text_cursor(&notes(), &field("body"), 0).unwrap();
    assert_eq!(unborn.document.text_position(&notes(), &field("body"), &end), Ok(0));
    assert!(document.state(Some(&schema)).is_ok());
}
