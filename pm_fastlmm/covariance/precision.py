"""Stub."""


class Precision: ...
