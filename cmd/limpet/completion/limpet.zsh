#compdef limpet
_limpet() {
	local -a known found
	known=("${(@)words[1,CURRENT-1]}")
	if (( ! ${known[(Ie)--]} )); then # else another program's words follow
		[[ ${words[CURRENT]} == -* ]] && known+=("${words[CURRENT]/#--/-}")
		found=("${(@f)$("${known[@]}" --generate-bash-completion 2>/dev/null)}")
	fi
	if [[ -n ${found[1]} ]]; then
		compadd -a found
	else
		_files
	fi
}
compdef _limpet limpet
