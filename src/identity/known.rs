//! [`IdentityField`]: the parts of an identity that can be unknown.

use crate::identity::{Identity, IdentityBuilder};

/// A part of an [`Identity`] that can be unknown.
///
/// A token says nothing about roles if no roles claim is configured for its issuer, or if the
/// token lacks that claim. An empty list of roles is different: the caller is known to have none.
/// A negated condition such as `!role("suspended")` is met only if the field is known.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum IdentityField {
    /// [`Identity::kind`].
    Kind,
    /// [`Identity::roles`].
    Roles,
    /// [`Identity::tenant`].
    Tenant,
    /// [`Identity::plan`].
    Plan,
    /// [`Identity::scopes`]. Not known if the token has no scope claim, or one that cannot be read:
    /// it grants nothing then.
    Scopes,
    /// [`Identity::metadata`]: all names. A name that has a value is known in any case.
    Metadata,
}

/// A set of fields.
#[derive(Clone, Copy)]
pub(super) struct KnownFields(u8);

impl KnownFields {
    pub(super) const NONE: Self = Self(0);
    const ALL: Self = Self(u8::MAX);

    pub(super) const fn insert(&mut self, field: IdentityField) {
        self.0 |= 1 << field as u8;
    }

    const fn remove(&mut self, field: IdentityField) {
        self.0 &= !(1 << field as u8);
    }

    const fn contains(self, field: IdentityField) -> bool {
        self.0 & 1 << field as u8 != 0
    }
}

impl Identity {
    /// Returns whether a field is known.
    ///
    /// An API key's record states everything about the key, so all fields are known. For a token
    /// these are the fields whose claims are configured and present:
    /// [`roles_from`](crate::auth::jwt::Issuer::roles_from),
    /// [`tenant_from`](crate::auth::jwt::Issuer::tenant_from) and
    /// [`plan_from`](crate::auth::jwt::Issuer::plan_from). The kind is known if
    /// [`application_if`](crate::auth::jwt::Issuer::application_if) is set, or if the token has
    /// `client_id` or `azp`.
    ///
    /// ```
    /// use tollgate::Identity;
    /// use tollgate::identity::IdentityField;
    ///
    /// let identity = Identity::builder("https://id.example.com/", "ann").tenant("acme").build();
    /// assert!(identity.is_known(IdentityField::Tenant));
    /// assert!(!identity.is_known(IdentityField::Roles));
    /// ```
    #[must_use]
    pub fn is_known(&self, field: IdentityField) -> bool {
        self.inner.known.contains(field)
    }

    /// Returns whether the caller certainly does not have the role: under any reading of the
    /// claim, `role` does not appear in it.
    pub(crate) fn lacks_role(&self, role: &str) -> bool {
        let mut texts = self
            .roles()
            .chain(self.inner.other_roles.iter().map(|it| &**it));
        self.is_known(IdentityField::Roles) && !texts.any(|text| mentions(text, role))
    }

    /// Returns whether the caller certainly belongs to another tenant, or to none.
    pub(crate) fn lacks_tenant(&self, tenant: &str) -> bool {
        let held = self.tenant();
        self.is_known(IdentityField::Tenant) && !held.is_some_and(|held| mentions(held, tenant))
    }

    /// Returns whether the metadata certainly does not have the value under that name.
    pub(crate) fn lacks_attribute(&self, name: &str, value: &str) -> bool {
        match self.metadata().get(name) {
            Some(held) => !mentions(held, value),
            None => self.is_known(IdentityField::Metadata),
        }
    }
}

impl IdentityBuilder {
    /// Declares that a field is known, although nothing was set: a caller without roles, or without
    /// a tenant.
    ///
    /// Setting a kind, role, tenant or plan does the same for its field.
    ///
    /// ```
    /// use tollgate::identity::IdentityField;
    /// use tollgate::authorize::Requirement;
    /// use tollgate::{Identity, role};
    ///
    /// let not_suspended = Requirement::from(!role("suspended"));
    /// let user = Identity::builder("directory", "ann");
    /// assert!(!not_suspended.is_met_by(&user.clone().build())); // the roles were not looked up
    /// assert!(not_suspended.is_met_by(&user.known(IdentityField::Roles).build()));
    /// ```
    pub fn known(mut self, field: IdentityField) -> Self {
        self.known.insert(field);
        self
    }

    /// Declares that a field is not known, or not completely. Negated conditions on it are not met.
    pub fn unknown(mut self, field: IdentityField) -> Self {
        self.known.remove(field);
        self
    }

    /// Declares that all fields are known.
    pub(crate) fn all_known(mut self) -> Self {
        self.known = KnownFields::ALL;
        self
    }

    /// Adds a text that could be a role under another reading of the claim.
    #[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
    pub(crate) fn other_role(mut self, text: impl Into<Box<str>>) -> Self {
        self.other_roles.push(text.into());
        self
    }
}

/// Returns whether `name` is the text, or stands in it between separators: whitespace, control
/// characters, commas and semicolons.
pub(crate) fn mentions(text: &str, name: &str) -> bool {
    let is_separator = |c: char| c.is_whitespace() || c.is_control() || c == ',' || c == ';';
    text == name
        || text.match_indices(name).any(|(at, found)| {
            let (before, after) = (&text[..at], &text[at + found.len()..]);
            before.chars().next_back().is_none_or(is_separator)
                && after.chars().next().is_none_or(is_separator)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_between_separators() {
        for text in [
            "suspended",
            "admin suspended",
            "suspended,admin",
            "a;suspended;b",
            "a\u{a0}suspended",
            " suspended ",
            "suspended\0",
            "unsuspended suspended",
        ] {
            assert!(mentions(text, "suspended"), "{text:?}");
        }
        for text in ["", "suspende", "unsuspended", "suspended:no", "SUSPENDED"] {
            assert!(!mentions(text, "suspended"), "{text:?}");
        }
        assert!(mentions("x two words", "two words"));
        assert!(!mentions("a b", "a b c"));
    }
}
