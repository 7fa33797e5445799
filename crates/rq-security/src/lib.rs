//! Who may connect and what they may do: certificates (load, reload, verify), users, permissions.
