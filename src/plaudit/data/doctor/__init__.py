"""What is wrong with a data file before anything is trained on it: `plaudit doctor`.

    thresholds   every number that decides a verdict, with its reason
    findings     verdicts, examples, the diagnosis
    entries      a row as prompt and answers, whatever its kind
    words        keys and MinHash digests of texts
    personal     e-mail addresses, telephone numbers, account numbers, keys; nothing of them is ever shown whole
    characters   broken and invisible characters
    markup       special tokens, role markers, the order of turns
    leaks        answers that begin with or quote their prompt
    facts        all of the above about one row, small enough to keep for every row
    workers      facts in several processes
    repeats, judgements, lengths, balance, overlap, languages     checks across rows
    examine      one pass over a file, and the checks
    mend, clean, copies  what can be mended in a row, and the cleaned copy with its log
    checkup      all of it; `plaudit.data.interface` has its arguments

A check across rows is a pure function of the rows' facts. Nothing heavy is imported here.
"""
