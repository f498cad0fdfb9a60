//! Typed entities: structs as collections, and the types of fields that merge.

mod collection;
mod counter;
mod difference;
mod entity;
mod finite;
mod list;
mod listed;
mod map;
mod part;
pub mod private;
mod record;
mod reference;
mod set;
mod shape;
mod text;

pub use counter::Counter;
pub use entity::Entity;
pub use list::List;
pub use listed::Listed;
pub use map::Map;
pub use part::Part;
pub use record::Record;
pub use reference::Reference;
pub use set::Set;
pub use text::Text;
