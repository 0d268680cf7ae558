"""Who may do what: permissions and roles as data, and one pure decision."""
