"""Operations: what can be asked of the hub, declared once, for every transport."""
