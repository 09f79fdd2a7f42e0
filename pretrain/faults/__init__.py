"""Faults done to tiny runs on purpose, and whether what is promised of each is kept: `python -m pretrain faults`.

1. a `Row` names a fault, its promise, and the tries that show it (`row`; the rows lie in modules by what is done);
2. a `Bench` has what they are tried on: a small store and model, and runs that several rows compare with (`bench`);
3. runs are started as a user does, on ranks by hand or under a launcher (`world`), with something wrong in them where
   nothing from outside could do it (`faulty`), and compared bit for bit (`courses`);
4. an `Outcome` says what was tried, what was green, and what was seen where it was not.
"""
