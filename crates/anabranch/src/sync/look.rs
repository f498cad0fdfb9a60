//! Looks into the store on behalf of a reconcile.

use anabranch_core::sync::{ClientEvent, Look};
use anabranch_store::StoreError;

use crate::sync::driver::Driver;

impl Driver {
    pub(super) async fn look(&self, look: Look) -> Result<ClientEvent, StoreError> {
        match look {
            Look::Items { space, collections } => {
                let items = self.store.read(|read| read.items_for(self.remote, &space, collections.as_deref()))?;
                Ok(ClientEvent::Items { space, items })
            }
            Look::Compare { space, theirs } => {
                let of = space.clone();
                // On rows that show all writes before it.
                let compared = self.store.write_on_rows(move |write| write.compare(&of, &theirs)).await?;
                Ok(ClientEvent::Compared { space, compared })
            }
        }
    }
}
