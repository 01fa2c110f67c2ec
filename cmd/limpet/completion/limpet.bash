# bash completion for limpet
_limpet() {
	local word=${COMP_WORDS[COMP_CWORD]} words=("${COMP_WORDS[@]:0:COMP_CWORD}")
	COMPREPLY=()
	[[ " ${words[*]} " == *" -- "* ]] && return # another program's words follow
	[[ $word == -* ]] && words+=("${word/#--/-}")
	mapfile -t COMPREPLY < <(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$word")
}
complete -o bashdefault -o default -F _limpet limpet
