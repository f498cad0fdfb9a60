//! The arguments of every command.

mod meaning;
mod peer;
mod schema;
mod serve;
mod sync;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use meaning::{Conflicts, Diff, History, Resolve, Why};
pub(crate) use peer::{Peer, PeerDial, PeerListen, PeerToken};
pub(crate) use schema::{Schema, SchemaApply, SchemaDiff};
pub(crate) use serve::{Serve, Token};
pub(crate) use sync::{Clone, Discard, Outbox, Resend, Status, Sync, Verify};

/// Offline-first replication: replicas in files, a server, and sync between them.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, about)]
pub(crate) struct Arguments {
    /// Print JSON.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole path: a server, replicas that are cut off and edit, and how they agree again.
    Demo(Demo),
    /// Run a sync server.
    Serve(Serve),
    /// Sign a token for a server that asks for one: for development, and for scripts.
    Token(Token),
    /// Make a replica.
    Init(Init),
    /// Create an entity, or one per line of standard input.
    Create(Create),
    /// Edit an entity: everything in one change.
    Edit(Edit),
    /// Show an entity.
    Get(Get),
    /// Delete an entity; its history stays.
    Delete(Delete),
    /// List the entities of a collection.
    List(List),
    /// Run SQL that reads; each collection is a view.
    Query(Query),
    /// Show the change log.
    Log(Log),
    /// Sync with a server.
    Sync(Sync),
    /// Prove that a replica and its server hold the same, or list what differs. Changes nothing.
    Verify(Verify),
    /// Find what is damaged in a replica's file, and save what can be saved. No process may have it open.
    Repair(Repair),
    /// Show what is pending, and how the sync stands.
    Status(Status),
    /// Show what no server has accepted yet, and why.
    Outbox(Outbox),
    /// Offer what the server has refused again.
    Resend(Resend),
    /// Give up what the server has refused of an entity; later edits are written again without it.
    Discard(Discard),
    /// Bring a deleted entity back.
    Restore(OneEntity),
    /// Purge a deleted entity: its history goes for good, once the server has agreed.
    Purge(OneEntity),
    /// List what waits for a person, or everything that is contested in one entity.
    Conflicts(Conflicts),
    /// Settle a conflict.
    Resolve(Resolve),
    /// Tell why a field shows what it shows: who wrote what when, which rule chose, what lost.
    Why(Why),
    /// Show an entity's history, newest first.
    History(History),
    /// Show what differs between two points of an entity's history.
    Diff(Diff),
    /// Take back this replica's last edit of an entity; what others wrote since stays.
    Undo(OneEntity),
    /// Take back an undo.
    Redo(OneEntity),
    /// Make a replica from what a server has of a space, with the schema that the space carries.
    Clone(Clone),
    /// Work on schemas.
    #[command(subcommand)]
    Schema(Schema),
    /// Sync straight with another replica, without a server.
    #[command(subcommand)]
    Peer(Peer),
}

/// `--space`.
#[derive(Debug, Args)]
pub(crate) struct InSpace {
    /// The space.
    #[arg(long, default_value = "main", value_name = "NAME")]
    pub(crate) space: String,
}

/// `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// How many replicas.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub(crate) replicas: u8,
    /// A keystroke trace to type (gzipped JSON), dealt out to the replicas; a bundled one by default.
    #[arg(long, value_name = "FILE.json.gz")]
    pub(crate) trace: Option<PathBuf>,
    /// Keep all files in this new or empty folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Also kill a writing process at random moments, and look for everything it had acknowledged.
    #[arg(long)]
    pub(crate) crash: bool,
}

/// `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The new replica's file.
    pub(crate) file: PathBuf,
    /// The schema.
    #[arg(long, value_name = "SCHEMA.toml")]
    pub(crate) schema: PathBuf,
}

/// `create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The collection.
    pub(crate) collection: String,
    /// The fields (`title=Hi stars=3 tags+=food due:=null`), or `-` to read one JSON object per line.
    #[arg(value_name = "FIELD=VALUE", required_unless_present = "data", conflicts_with = "data")]
    pub(crate) fields: Vec<String>,
    /// The fields as a JSON object.
    #[arg(long, value_name = "JSON")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `edit`.
#[derive(Debug, Args)]
#[command(after_help = "The edits, all in one change:
  title=Hi due:=null         a register: text, or JSON
  stars+=1 stars-=1          a counter
  tags+=food tags-=old       a set
  body=… body+=… body[5:8]=abc  a text: whole, at the end, or characters 5 to 8 replaced
  items+=milk items[0]=eggs items[1:2]:='[\"x\"]'  a list
  links[home]=… links-=home  a map")]
pub(crate) struct Edit {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// The edits.
    #[arg(value_name = "EDIT", required = true)]
    pub(crate) edits: Vec<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    /// Print just the state, as canonical JSON: equal states are equal bytes.
    #[arg(long)]
    pub(crate) state: bool,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The collection.
    pub(crate) collection: String,
    /// How many at most.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(..i64::from(u32::MAX)))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `query`.
#[derive(Debug, Args)]
pub(crate) struct Query {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The SQL, like `SELECT title, stars FROM notes ORDER BY stars DESC`.
    pub(crate) sql: String,
}

/// `log`.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The replica.
    pub(crate) file: PathBuf,
    /// One entity only: its id, or the beginning of it.
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) space: InSpace,
}

/// `repair`.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    /// The replica.
    pub(crate) file: PathBuf,
    /// Only say what is damaged; change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The schema, should the file's own not be readable.
    #[arg(long, value_name = "SCHEMA.TOML")]
    pub(crate) schema: Option<PathBuf>,
}

/// A command about one entity.
#[derive(Debug, Args)]
pub(crate) struct OneEntity {
    /// The replica.
    pub(crate) file: PathBuf,
    /// The entity: its id, or the beginning of it.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) space: InSpace,
}
