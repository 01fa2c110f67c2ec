# fish completion for limpet
function __limpet_next
    set -l words (commandline --cut-at-cursor --tokenize --current-process)
    set -l word (commandline --current-token --cut-at-cursor)
    if contains -- -- $words # another program's words follow
        return
    end
    if string match --quiet -- '-*' $word
        set --append words (string replace --regex -- '^--' '-' $word)
    end
    $words --generate-bash-completion 2>/dev/null
end
complete --command limpet --arguments '(__limpet_next)'
