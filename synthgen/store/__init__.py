"""Run folders: paths, marks, tables, exports, locks, and their mirrors in object stores."""
